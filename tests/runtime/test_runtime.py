"""`vlm-vqa-runtime`: its wheel holds all that it needs, and answers as the library does."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vlm
from vlm.core.bundled import BUNDLED
from vlm.datasets import Dataset, EasyVQA, Scenes
from vlm.export import Exported, export
from vlm.export.manifest import write_manifest

ROOT = Path(__file__).parents[2]
RUNTIME = ROOT / "runtime"
HEAVY = {"torch", "vlm", "transformers", "tokenizers", "timm", "pyarrow", "scipy", "lightning"}
SETS: dict[str, type[Dataset]] = {"scenes": Scenes, "easy_vqa": EasyVQA}
QUESTIONS = ["what color is it?", "is it red?", "???", "wherefore quixotic?"]


def imported(path: Path) -> Iterator[str]:
    """What a module imports as it is imported itself, type checkers' imports aside."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            yield str(node.module).partition(".")[0]
        elif isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", folder, RUNTIME], check=True)
    (made,) = folder.glob("vlm_vqa_runtime-*.whl")
    return made


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", folder, wheel], check=True)
    return folder


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(vlm.load(run), tmp_path_factory.mktemp("exports") / "model")


def without_torch(site: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python where every import of what is heavy fails."""
    block = f"import sys; sys.modules.update(dict.fromkeys({sorted(HEAVY)!r}))"
    (site / "sitecustomize.py").write_text(block)
    environment = os.environ | {"PYTHONPATH": str(site)}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_wheel_holds_the_library_s_modules_that_need_no_torch(site: Path) -> None:
    library = site / "vlm_runtime/library"
    copies = {str(p.relative_to(library)) for p in library.rglob("*.py") if p.stat().st_size}
    assert {"asking.py", "export/exported.py", "image/load.py", "text/words.py"} <= copies
    for name in copies:
        assert not HEAVY & set(imported(ROOT / "vlm" / name)) - {"vlm"}, name
        assert "from vlm." not in (library / name).read_text()
    assert (site / "vlm_runtime/LICENSE").is_file()
    assert not list(site.glob("vlm/**"))


def test_it_answers_as_the_model_without_torch(
    run: Path, exported: Path, data: Path, site: Path
) -> None:
    images = [data / f"test/images/{n}.png" for n in range(6)]
    code = (
        "import json, sys, vlm_runtime\n"
        "model = vlm_runtime.load(sys.argv[1])\n"
        "questions = json.loads(sys.argv[2])\n"
        "answers = [a for i in sys.argv[3:] for a in model.answer(i, questions)]\n"
        "print(json.dumps([[a.text, a.probability, a.warnings, a.is_guess] for a in answers]))"
    )
    ended = without_torch(site, "-c", code, exported, json.dumps(QUESTIONS), *images)
    assert ended.returncode == 0, ended.stderr
    vqa = vlm.load(run)
    own = [answer for image in images for answer in vqa.answer(image, QUESTIONS)]
    for answer, (text, probability, warnings, guess) in zip(
        own, json.loads(ended.stdout), strict=True
    ):
        assert (answer.text, list(answer.warnings), answer.is_guess) == (text, warnings, guess)
        assert answer.probability == pytest.approx(probability, abs=1e-5)


def test_the_command(exported: Path, data: Path, site: Path) -> None:
    image = data / "test/images/0.png"
    ended = without_torch(site, "-m", "vlm_runtime", exported, image, "what color is it?")
    assert ended.returncode == 0, ended.stderr
    best = Exported(exported).answer(image, "what color is it?")
    assert ended.stdout.splitlines()[0].endswith(best.text)
    known = Exported(exported).calibration
    assert known is not None
    assert ended.stderr.splitlines()[-1] == known.about
    ended = without_torch(site, "-m", "vlm_runtime", exported, image, "wherefore quixotic?")
    assert ended.returncode == 3
    assert ended.stdout.startswith("No answer")
    ended = without_torch(site, "-m", "vlm_runtime", exported, "gone.png", "is it red?")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "gone.png: there is no such file" in ended.stderr


def test_the_command_does_not_know_above_the_risk(
    exported: Path, data: Path, site: Path, tmp_path: Path
) -> None:
    image, question = data / "test/images/0.png", "what color is it?"
    best = Exported(exported).answer(image, question)
    assert best.calibrated
    copied = Path(shutil.copytree(exported, tmp_path / "copy"))
    about = json.loads((copied / "manifest.json").read_bytes())
    for shift, code in ((-1e-4, 0), (1e-4, 3)):
        about["calibration"]["thresholds"] = [[0.05, min(1.0, best.probability + shift), 1.0, ""]]
        write_manifest(copied, about)
        command = ["-m", "vlm_runtime", copied, image, question, "--max-risk", "0.1"]
        ended = without_torch(site, *command)
        assert ended.returncode == code, ended.stderr
        assert ended.stdout.startswith("I don't know: the risk") is bool(code)
    ended = without_torch(site, "-m", "vlm_runtime", exported, image, question, "--max-risk", "0.1")
    assert ended.returncode == 1
    assert "vlm-answer: max_risk: got 0.1, but this model has no threshold" in ended.stderr


def test_the_bundled_exports_answer_by_name(site: Path, tmp_path: Path) -> None:
    image, question = BUNDLED / "scenes/example.png", "Is the gray object left of the brown object?"
    ended = without_torch(site, "-m", "vlm_runtime", "scenes", image, question)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[0].endswith("yes")
    ended = without_torch(site, "-m", "vlm_runtime", "scene", image, question)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "comes with the runtime. Did you mean scenes?" in ended.stderr
    ended = without_torch(site, "-c", "import vlm_runtime as v; print(v.bundled_models())")
    assert ended.stdout == f"{sorted(SETS)}\n"


@pytest.mark.parametrize("name", SETS)
def test_a_bundled_export_is_of_the_bundled_model(name: str) -> None:
    exported, model = Exported(RUNTIME / "vlm_runtime/models" / name), vlm.load(name)
    rows = SETS[name]().table("test").to_pylist()[::40]
    images, questions = [row["image"] for row in rows], [row["question"] for row in rows]
    answers = zip(exported.answer(images, questions), model.answer(images, questions), strict=True)
    assert sum(own.text == other.text for own, other in answers) > 0.95 * len(rows)
    assert exported.calibration == model.calibration
    assert exported.about["precision"] == "int8"


def test_photos_of_all_kinds_and_sizes_become_the_same_pixels() -> None:
    from skimage import data as photos

    from vlm.export.pixels import PixelTransform

    for interpolation in ("bilinear", "bicubic"):
        own = vlm.image.ImageTransform((224, 224), interpolation, "crop", 0.875)  # type: ignore[arg-type]
        other = PixelTransform((224, 224), interpolation, "crop", 0.875, None)
        whole = vlm.image.ImageTransform((96, 128), interpolation)  # type: ignore[arg-type]
        pixels = PixelTransform((96, 128), interpolation, "squash", 1.0, None)
        for name in ("astronaut", "chelsea", "coffee", "rocket", "camera", "page"):
            image = Image.fromarray(getattr(photos, name)())
            np.testing.assert_array_equal(own.open(image).numpy(), other.open(image))
            np.testing.assert_array_equal(whole.open(image).numpy(), pixels.open(image))


@pytest.mark.slow
def test_a_new_environment_is_small(
    wheel: Path, exported: Path, data: Path, tmp_path: Path
) -> None:
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    packages = next(environment.glob("lib/python*/site-packages"))
    before = size(packages)
    subprocess.run([environment / "bin/pip", "install", "--quiet", wheel], check=True)
    assert size(packages) - before < 180e6
    command = [environment / "bin/vlm-answer", exported, data / "test/images/0.png", "is it red?"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[0].endswith(("yes", "no", "red", "green", "blue"))


def size(folder: Path) -> int:
    """Without the bytecode that Python makes of it."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return sum(path.stat().st_size for path in files)
