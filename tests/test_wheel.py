"""The wheel builds, contains only the package, and works once installed."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_wheel(tmp_path: Path, run: Path, data: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, ROOT], check=True
    )
    (wheel,) = tmp_path.glob("vlm_vqa-*.whl")
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


@pytest.mark.slow
def test_the_base_alone_brings_fusions(tmp_path: Path) -> None:
    """A new environment with the wheel and, but for torch, what its base asks for."""
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, ROOT]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("vlm_vqa-*.whl")
    requires = [
        line.removeprefix("Requires-Dist: ")
        for line in zipfile.ZipFile(wheel).read(metadata(wheel)).decode().splitlines()
        if line.startswith("Requires-Dist: ") and "extra ==" not in line
    ]
    assert len(requires) == 6
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    pip = [environment / "bin/pip", "install", "--quiet"]
    subprocess.run([*pip, *(line for line in requires if not line.startswith("torch"))], check=True)
    subprocess.run([*pip, "--no-deps", wheel], check=True)
    # torch, which takes gigabytes, from here, with what it imports itself
    packages = next(environment.glob("lib/python*/site-packages"))
    code = "import torch; print(torch.__path__[0])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    installed = Path(found.stdout.strip()).parent
    needed = (
        "torch",
        "torchgen",
        "functorch",
        "sympy",
        "mpmath",
        "networkx",
        "jinja2",
        "markupsafe",
        "filelock",
        "fsspec",
        "typing_extensions.py",
    )
    for name in needed:
        (packages / name).symlink_to(installed / name)
    code = (
        "import torch, vlm\n"
        "fusion = vlm.fusion.CrossAttention(image_dim=8, text_dim=4)\n"
        "print(fusion(torch.randn(2, 5, 8), torch.randn(2, 3, 4)).tokens.shape[1])"
    )
    command = [environment / "bin/python", "-c", code]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "8"
    command = [environment / "bin/vlm", "fit", "-c", "easy_vqa"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "pip install 'vlm-vqa[train]'" in ended.stderr


def metadata(wheel: Path) -> str:
    return next(n for n in zipfile.ZipFile(wheel).namelist() if n.endswith(".dist-info/METADATA"))
