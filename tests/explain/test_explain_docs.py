"""The code of the page on explanations runs. tests/test_notebooks.py runs its notebook."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import ROOT


def test_the_page_runs(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "RUN").symlink_to(run)
    (tmp_path / "photo.png").symlink_to(data / "test/images/0.png")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs/explain.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    # The small data set's answers are other colours.
    exec(compile(code.replace('"blue"', '"yes"'), "explain.md", "exec"), {})
    assert (tmp_path / "why.png").is_file()
