"""One style of tables, bars with the time left, and no colours where none are wanted."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

import vlm
from vlm.cli.main import main
from vlm.core import terminal as module
from vlm.core.terminal import new_console, new_progress, new_table, track, working

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


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> Console:
    console = terminal(80)
    monkeypatch.setattr(module, "_stderr", lambda: console)
    return console


def test_work_of_unknown_length_shows_what_it_is_and_since_when(stderr: Console) -> None:
    with working("Reading [x]"):
        pass
    assert re.search(r"Reading \[x\].*0:00:00 so far", printed(stderr))
    assert "%" not in printed(stderr)


def test_a_bar_inside_another_is_below_it(stderr: Console) -> None:
    with working("Calibration"):
        assert list(track(iter("ab"), "Asking", 2)) == ["a", "b"]
        shown = printed(stderr)
    assert re.search(r"Calibration[^\n]*\n[^\n]*Asking", shown)
    assert " left" in shown


def test_a_bar_ends_with_an_error(stderr: Console) -> None:
    with pytest.raises(ZeroDivisionError) as error:  # noqa: PT012 the loop is the point
        for number in track([0], "Dividing"):
            print(1 / number)
    assert error.value.__traceback__ is not None  # which keeps the frame
    assert "\x1b[?25h" in printed(stderr)  # the cursor is back


@pytest.mark.parametrize("name", ["LOCAL_RANK", "SLURM_LOCALID"])
def test_the_other_processes_of_a_training_show_no_bar(
    name: str, stderr: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "1")
    with working("Reading"):
        pass
    assert printed(stderr) == ""


def test_long_work_of_commands_shows_bars(
    run: Path, data: Path, stderr: Console, tmp_path: Path
) -> None:
    given = [f"--dataset.root={data}"]
    config = ["-c", str(run / "config.yaml"), *given]
    predictions = str(run / "test_predictions.jsonl")
    main(["evaluate", predictions, *config, f"--output={tmp_path / 'scored'}"])
    assert "Counting training answers" in printed(stderr)
    assert "Scoring the majority answer" in printed(stderr)
    assert "Computing the ceiling" in printed(stderr)
    with pytest.raises(SystemExit):
        main(["check-data", str(run / "config.yaml"), *given, f"--output={tmp_path / 'checked'}"])
    for said in ("Counting train questions", "Comparing questions", "Comparing the splits"):
        assert said in printed(stderr)
    main(["report", str(run), *given, "--only", "groups", f"--output={tmp_path / 'report'}"])
    assert "Accuracy by group, worst first (section 1 of 1)" in printed(stderr)
    assert "Asking 36 questions" in printed(stderr)
    main(["export", str(run), str(tmp_path / "export"), *given, "--format=torch"])
    for graph in ("image", "question", "answer"):
        assert f"Tracing the {graph} graph" in printed(stderr)
        assert f"Writing the {graph} graph" in printed(stderr)


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
        "studies/comparison/runs.py",  # a bar for each run, with its state
    }
    for path in SOURCES.rglob("*.py"):
        name = str(path.relative_to(SOURCES))
        if name not in allowed:
            text = path.read_text(encoding="utf-8")
            assert not BAR.search(text.replace("new_progress(", "")), name
            assert not re.search(r"(?<![A-Za-z.])Table\(", text), name
