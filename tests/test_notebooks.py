"""The notebooks in demos/ run from start to end, and hold their outputs.

`python tests/test_notebooks.py [NAME ...]` runs them and writes the outputs that are committed.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "demos").glob("*.ipynb"))
NAMES = {"explain", "fine_tune", "own_data", "own_fusion", "trust_report"}
# One thread, and no warnings of libraries about the notebook itself.
ENVIRONMENT = {
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),  # `vlm`
    "OMP_NUM_THREADS": "1",
    "PYTHONWARNINGS": "ignore",
    "NO_COLOR": "1",
}


def executed(path: Path, folder: Path) -> Any:
    """The notebook with its outputs, run in a folder of its own; an error in a cell is raised."""
    notebook = nbformat.read(path, as_version=4)
    os.environ.update(ENVIRONMENT)  # the kernel inherits it
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=1800, resources=resources, record_timing=False).execute()
    return notebook


def test_every_notebook_is_there() -> None:
    assert {path.stem for path in NOTEBOOKS} == NAMES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_holds_its_outputs(path: Path) -> None:
    code = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    assert sum(bool(cell.outputs) for cell in code) >= len(code) / 2
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    text = path.read_text(encoding="utf-8")
    assert "site-packages" not in text, "an output names a folder of the machine that ran it"
    assert "u001b" not in text, "an output has codes of a terminal"


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    executed(path, tmp_path)


def shown(text: str) -> str:
    """What a terminal shows at the end: without colours, and without bars that were erased."""
    lines = [""]
    for token in re.split(r"(\x1b\[[0-9;?]*[A-Za-z]|\n)", text.replace("\r", "")):
        if token == "\n":
            lines.append("")
        elif token == "\x1b[2K":  # erase the line
            lines[-1] = ""
        elif token == "\x1b[1A":  # one line up
            lines.pop()
        elif not token.startswith("\x1b"):
            lines[-1] += token
    return "\n".join(lines)


def tidied(outputs: list[Any]) -> list[Any]:
    """Outputs without the log, which names dates and folders; one text for each command."""
    kept: list[Any] = []
    for output in outputs:
        if output.get("name") == "stderr":
            continue
        if kept and output.get("name") == kept[-1].get("name") == "stdout":
            kept[-1]["text"] += output["text"]
        else:
            kept.append(output)
    for output in kept:
        data = output.get("data", {})
        data.pop("image/jpeg", None)  # the image once, as PNG
        if "text/plain" in data:
            data["text/plain"] = shown(data["text/plain"])
        if "text" in output:
            output["text"] = shown(output["text"])
    return kept


def main() -> None:
    for path in NOTEBOOKS:
        if len(sys.argv) > 1 and path.stem not in sys.argv:
            continue
        with tempfile.TemporaryDirectory() as folder:
            notebook = executed(path, Path(folder))
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = tidied(cell.outputs)
        nbformat.write(notebook, path)
        print(path, flush=True)


if __name__ == "__main__":
    main()
