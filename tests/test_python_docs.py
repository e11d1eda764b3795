"""The programs of docs/python.md run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

PROGRAMS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(), re.DOTALL)


def test_the_first_program_trains_tests_and_answers(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    program = PROGRAMS[0].replace("EasyVQA()", 'EasyVQA("easy_vqa")')
    assert program != PROGRAMS[0], "the data of the tests stand in for the package's"
    assert len(program.strip().splitlines()) <= 20
    monkeypatch.chdir(tmp_path)
    (tmp_path / "easy_vqa").symlink_to(data)
    (tmp_path / "photo.png").symlink_to(data / "test/images/0.png")
    names: dict[str, Any] = {}
    exec(compile(program, "python.md", "exec"), names)
    run = names["run"]
    accuracy, answer = capsys.readouterr().out.splitlines()[-1].split()
    assert float(accuracy) == run.test["accuracy"]
    assert answer in names["data"].answers
    assert (run.folder / "test.json").is_file()
    assert run.folder.parent == Path("runs/first")
    # The second program resumes a run that has already finished all epochs.
    again = PROGRAMS[1].splitlines()[1].replace("20261129-120000", run.folder.name)
    exec(compile(again, "python.md", "exec"), names)
    assert names["run"].folder == run.folder


def test_the_others_are_programs() -> None:
    for program in PROGRAMS:
        compile(program, "python.md", "exec")
