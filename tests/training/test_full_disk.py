"""A full disk while writing a file other than a checkpoint: the log or a report."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

import vlm.cli.training_command as command


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_it_is_named(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(arguments: list[str]) -> None:
        raise OSError(number, os.strerror(number), "runs/metrics.csv")

    monkeypatch.setattr(command, "VQACLI", write)
    with pytest.raises(SystemExit) as ended:
        command.run(["fit"])
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("vlm: runs/metrics.csv: cannot be written (")


def test_other_errors_of_files_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "VQACLI", lambda arguments: Path("/nosuch").read_text())
    with pytest.raises(FileNotFoundError):
        command.run(["fit"])
