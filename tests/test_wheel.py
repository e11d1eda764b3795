"""The wheel builds, contains only the package, and works once installed."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from importlib.metadata import distributions
from pathlib import Path
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT]
    subprocess.run(command, check=True)
    (made,) = folder.glob("vlm_vqa-*.whl")
    return made


@pytest.mark.slow
def test_wheel(wheel: Path, tmp_path: Path, run: Path, data: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"vlm"}
    assert {"vlm/py.typed", "vlm/cli/help/fit.txt", "vlm/cli/help/options.json"} <= set(names)
    assert {"vlm/studies/forgetting/paraphrases.tsv"} <= set(names)
    generated = {"digests.json", "shapes.npz"}
    assert {f"vlm/datasets/generated/{name}" for name in generated} <= set(names)
    configs = {str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.yaml")}
    assert {f"vlm/{name}" for name in configs} <= set(names)
    projects = {path.name for path in (ROOT / "vlm/cli/project").iterdir() if path.is_file()}
    assert {f"vlm/cli/project/{name}" for name in projects} <= set(names)
    assert any(name.endswith("licenses/NOTICE") for name in names)
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "vlm").rglob("*.py")}
    assert modules <= set(names)

    # Dependencies come from this environment, the package itself from the wheel.
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", site]
    subprocess.run([*pip, wheel], check=True)
    environment = {"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}

    def python(*arguments: object) -> str:
        command = [sys.executable, *map(str, arguments)]
        result = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        return result.stdout

    where = python("-c", "import vlm.fusion; print(vlm.fusion.__file__)")
    assert Path(where.strip()).is_relative_to(site)
    image = next((data / "test" / "images").iterdir())
    answer = python(site / "bin" / "vlm", "ask", run, image, "what color is it?")
    assert any(color in answer for color in ("red", "green", "blue"))
    arguments = ["--print_config"]
    printed = python(site / "bin" / "vlm", "fit", "-c", "easy_vqa", *arguments)
    assert "class_path: vlm.datasets.EasyVQA" in printed


HUGE = ("torch", "torchvision", "triton", "nvidia", "cuda")
"""What begins so comes from this environment: from PyPI it would be gigabytes for each test."""


@pytest.fixture(scope="module")
def torch_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with torch, and with what no index should be asked for."""
    folder = tmp_path_factory.mktemp("torch")
    for found in distributions():
        if re.split("[-_]", found.metadata["Name"].lower())[0] in HUGE:
            for name in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
                if not (folder / name).exists():
                    (folder / name).symlink_to(str(found.locate_file(name)))
    return folder


class Environment:
    """A new environment with the wheel, some of its extras, and what these ask for."""

    def __init__(self, folder: Path, wheel: Path, extras: str, torch_alone: Path) -> None:
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        packages = next((folder / "venv").glob("lib/python*/site-packages"))
        # On the path, and not in the environment: pip leaves it as it is.
        (packages / "torch_alone.pth").write_text(f"{torch_alone}\n")
        pip = [folder / "venv/bin/pip", "install", "--quiet", "--only-binary=:all:"]
        subprocess.run([*pip, f"{wheel}{extras}"], check=True)

    def __call__(self, *arguments: object, code: int = 0) -> str:
        """Run a command of the environment in a folder of its own; what it said."""
        name, *rest = map(str, arguments)
        command = [self.folder / "venv/bin" / name, *rest]
        ended = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert ended.returncode == code, ended.stdout + ended.stderr
        return ended.stdout + ended.stderr

    def serves(self, *arguments: object) -> None:
        """Start a command that serves a page at `/`, fetch it, and end the command."""
        command = [self.folder / "venv/bin/vlm", *map(str, arguments)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = iter(process.stdout.readline, "")
            found = next(filter(None, (re.search(r"http://[\w.:]+", line) for line in lines)))
            try:
                page = "/health" if arguments[0] == "serve" else "/"
                assert urlopen(found.group() + page).status == 200
            finally:
                process.terminate()
        assert process.returncode == 0


ASKED = (
    ROOT / "vlm/bundled/scenes/example.png",
    "Is the gray object left of the brown object?",
)


@pytest.mark.slow
def test_the_base_alone_brings_fusions_and_answers(
    wheel: Path, torch_alone: Path, tmp_path: Path
) -> None:
    run = Environment(tmp_path, wheel, "", torch_alone)
    code = (
        "import torch, vlm\n"
        "fusion = vlm.fusion.CrossAttention(image_dim=8, text_dim=4)\n"
        "print(fusion(torch.randn(2, 5, 8), torch.randn(2, 3, 4)).tokens.shape[1])"
    )
    assert run("python", "-c", code).strip() == "8"
    assert "%  yes" in run("vlm", "ask", "scenes", *ASKED)
    for extra, command in {
        "train": ("fit", "-c", "easy_vqa"),
        "serve": ("serve", "scenes"),
        "demo": ("demo", "scenes"),
        "train,export": ("export", "scenes", "folder", "-c", ROOT / "configs/scenes.yaml"),
    }.items():
        assert f"pip install 'vlm-vqa[{extra}]'" in run("vlm", *command, code=1)


@pytest.mark.slow
def test_the_training_extras_do_what_readme_says(
    wheel: Path, torch_alone: Path, tmp_path: Path
) -> None:
    run = Environment(tmp_path, wheel, "[train,export]", torch_alone)
    run("vlm", "init", "project")
    shape = ("images/0.png", "what color is the square?")
    run.folder = tmp_path / "project"  # whose fusion is found there
    (run.folder / "venv").symlink_to(tmp_path / "venv")
    vlm = ("python", "-m", "vlm")
    assert "0 errors" in run(*vlm, "check-data", "config.yaml")
    said = run(*vlm, "fit", "-c", "config.yaml", "--trainer.max_epochs=2")
    made = re.search(r"Run folder: (\S+)", said)
    assert made is not None
    assert "%" in run(*vlm, "ask", made[1], *shape, "--trust")
    run(*vlm, "share", made[1], "shared", "--trust")
    run(*vlm, "export", made[1], "exported", "--trust")
    assert "%" in run("vlm", "ask", "exported", *shape)
    run("vlm", "predict", "exported", "--dataset.path=questions.jsonl", "--dataset.images=images")


@pytest.mark.slow
def test_further_extras_do_what_readme_says(wheel: Path, torch_alone: Path, tmp_path: Path) -> None:
    Environment(tmp_path / "serve", wheel, "[serve]", torch_alone).serves(
        "serve", "scenes", "--port=0"
    )
    demo = Environment(tmp_path / "demo", wheel, "[demo]", torch_alone)
    demo.serves("demo", "scenes", "--port=0")
    encoders = Environment(tmp_path / "encoders", wheel, "[encoders]", torch_alone)
    build = "import vlm; print(vlm.image.TimmEncoder('resnet18', pretrained=False).dim)"
    assert encoders("python", "-c", build).strip() == "512"
