"""One style of tables, bars with the time left, and no colours where none are wanted."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

import vlm
from vlm.core.terminal import new_console, new_progress, new_table, track

SOURCES = Path(vlm.__file__).parent
BAR = re.compile(r"(?<!gr\.)\bProgress\(")


def terminal(width: int = 60) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, legacy_windows=False)


def printed(console: Console) -> str:
    return str(console.file.getvalue())  # type: ignore[attr-defined]  # a StringIO


def test_a_table_keeps_its_first_column_and_lines_numbers_up() -> None:
    table = new_table("name", "number", "about", numbers=("number",), title="Parts", note="A note.")
    table.add_row("vlm.fusion.CrossAttention", "7", "words " * 20)
    table.add_row("b", "1,234", "[bold]x")
    console = Console(file=io.StringIO(), width=50, markup=False)
    console.print(table)
    lines = printed(console).splitlines()
    assert lines[0].startswith("Parts")
    assert lines[-1].startswith("A note.")
    assert any("vlm.fusion.CrossAttention" in line for line in lines)
    assert any("     7 " in line for line in lines)


def test_a_bar_shows_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    console = terminal()
    with new_progress(console) as progress:
        task = progress.add_task("[Reading]", total=4)
        progress.advance(task, 2)
        progress.refresh()
        assert "[Reading]" in printed(console)
        assert " 50%" in printed(console)
        assert re.search(r"-:--:--|\d:\d\d:\d\d", printed(console))


def test_no_terminal_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track([1, 2], "Reading")) == [1, 2]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("value", ["1", ""])
def test_no_color_is_respected(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", value)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    console = new_console()
    console.file = io.StringIO()
    console.print("error", style="red")
    assert ("\x1b[31m" in printed(console)) == (value == "")


def test_every_table_and_bar_is_made_in_one_place() -> None:
    allowed = {
        "core/terminal.py",
        "cli/commands/report.py",  # a section of the trust report has no known end
        "studies/comparison/runs.py",  # a bar for each run, with its state
    }
    for path in SOURCES.rglob("*.py"):
        name = str(path.relative_to(SOURCES))
        if name not in allowed:
            text = path.read_text(encoding="utf-8")
            assert not BAR.search(text.replace("new_progress(", "")), name
            assert not re.search(r"(?<![A-Za-z.])Table\(", text), name
