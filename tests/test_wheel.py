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
