"""The short help and the option index match the real parser and come before torch loads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vlm.cli.help import FOLDER, read_help
from vlm.cli.help.__main__ import files
from vlm.cli.main import COMMANDS, main

TRAININGS = ("fit", "validate", "test", "predict")
HEAVY = ("lightning", "torch", "timm", "transformers", "jsonargparse")


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return files()


def test_the_committed_files_are_those_of_the_parser(made: dict[str, str]) -> None:
    for name, content in made.items():
        assert (FOLDER / name).read_text() == content, f"{name}: run `python -m vlm.cli.help`"


@pytest.mark.parametrize("command", TRAININGS)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_is_short(command: str, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([command, option])
    said = capsys.readouterr().out
    assert said == read_help(command)
    assert len(said.splitlines()) < 200
    assert max(map(len, said.splitlines())) <= 102
    for word in (f"vlm {command}", "--help-all", "vlm list", "--model.fusion", "--trainer.devices"):
        assert word in said


def test_help_all_is_the_parser_s(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--help-all"])
    assert stopped.value.code == 0
    assert "--trainer.reload_dataloaders_every_n_epochs" in capsys.readouterr().out


def heavy_after(arguments: list[str], folder: Path) -> tuple[int, str, list[str]]:
    """Run a command in a new process; return its exit code, error and heavy modules imported."""
    code = f"""
import json, sys
from vlm.cli.main import main
code = 0
try:
    main({arguments!r})
except SystemExit as stopped:
    code = stopped.code
print(json.dumps([code, [name for name in {HEAVY!r} if name in sys.modules]]))
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder
    )
    code, heavy = json.loads(ended.stdout.splitlines()[-1])
    return code, ended.stderr, heavy


MISTAKES = {
    "no file": (["-c", "nosuch.yaml"], None, "nosuch.yaml"),
    "syntax": (["-c", "mine.yaml"], "trainer:\n  max_epochs: [3\nrun: {}\n", "line 3"),
    "key": (["-c", "mine.yaml"], "run: {}\ntrainer:\n  max_epoch: 3\n", "line 3"),
    "section": (["-c", "mine.yaml"], "traner:\n  max_epochs: 3\n", "line 1"),
    "list": (["-c", "mine.yaml"], "- trainer\n", "line 1"),
    "empty": (["-c", "mine.yaml"], "", "empty"),
    "value of a group": (["-c", "mine.yaml"], "trainer: 3\n", "trainer: got '3'"),
    "file of a part": (["-c", "mine.yaml"], "model: {fusion: a/b.yaml}\n", "a/b.yaml"),
    "class": (["-c", "mine.yaml"], "model: {fusion: vlm.fusion.McAN}\n", "mean vlm.fusion.MCAN?"),
    "option": (["--trainer.max_epoch=3"], None, "mean --trainer.max_epochs?"),
    "option and value": (["--trainer.max_epoch", "3"], None, "mean --trainer.max_epochs?"),
    "inline": (["-c", "{traner: {max_epochs: 3}}"], None, "traner"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_known_before_torch(name: str, tmp_path: Path) -> None:
    arguments, text, message = MISTAKES[name]
    if text is not None:
        (tmp_path / "mine.yaml").write_text(text)
    code, said, heavy = heavy_after(["fit", *arguments], tmp_path)
    assert code == 2
    assert heavy == []
    (line,) = said.splitlines()
    assert line.startswith("vlm")
    assert message in line
    if text is not None:
        assert "(mine.yaml): mine.yaml" in line


# `explain` needs torch to list its methods, which are classes.
@pytest.mark.parametrize("command", ["", *sorted(COMMANDS.keys() - {"explain"})])
def test_help_comes_before_torch(command: str, tmp_path: Path) -> None:
    assert heavy_after([*command.split(), "--help"], tmp_path) == (0, "", [])
