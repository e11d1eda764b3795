"""The table of `vlm` commands."""

from __future__ import annotations

from pathlib import Path

import pytest

import vlm.cli.commands
from vlm.cli.main import COMMANDS, main


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"]])
def test_help_teaches_quickly(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    if arguments == ["--version"]:
        main(arguments)
        assert capsys.readouterr().out.strip()[0].isdigit()
        return
    with pytest.raises(SystemExit):
        main(arguments)
    assert "vlm ask" in capsys.readouterr().out


def test_help_lists_each_command_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    listed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    rows = dict(line.split(maxsplit=1) for line in listed)
    for name, command in COMMANDS.items():
        assert f"vlm {name}" in command.example
        assert rows[name].endswith(command.example)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_a_function_of_its_module(name: str) -> None:
    assert callable(COMMANDS[name].load())


def test_every_file_of_commands_is_in_the_table() -> None:
    folder = Path(str(vlm.cli.commands.__file__)).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert files == {command.function.partition(":")[0] for command in COMMANDS.values()}


@pytest.mark.parametrize(
    ("command", "message"),
    [("aks", "Did you mean ask?"), ("tset", "Did you mean test?"), ("xyz", "lists the commands")],
)
def test_an_unknown_command(command: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"vlm: there is no command {command!r}.")
    assert message in said
