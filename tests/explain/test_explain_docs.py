"""The cells of the explain notebook and the code of its docs page run."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path

import pytest
from conftest import ROOT


def test_the_notebook_runs(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cells run in order in one namespace, with a finished run in the folder they expect."""
    (tmp_path / "runs/easy_vqa").mkdir(parents=True)
    (tmp_path / "runs/easy_vqa/my_run").symlink_to(run)
    (tmp_path / "demos").mkdir()
    monkeypatch.chdir(tmp_path / "demos")
    notebook = json.loads((ROOT / "demos/explain.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    assert len(cells) >= 5
    assert not any(c.get("outputs") for c in notebook["cells"])
    names: dict[str, object] = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for number, cell in enumerate(cells):
            exec(compile(cell, f"cell {number}", "exec"), names)
    assert "like random weights" in printed.getvalue()


def test_the_page_runs(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/my_run").symlink_to(run)
    (tmp_path / "photo.png").symlink_to(data / "test/images/0.png")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs/explain.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    # The small data set's answers are other colours.
    exec(compile(code.replace('"blue"', '"yes"'), "explain.md", "exec"), {})
    assert (tmp_path / "why.png").is_file()
