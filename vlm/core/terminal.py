"""What commands show on a terminal: one style of tables, and the time left of what takes long.

rich leaves colours out where `NO_COLOR` is set or the output is no terminal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table

T = TypeVar("T")
WIDTH = 110
"""Columns of tables that are read in a file too, whatever the terminal's width."""


def new_console(stderr: bool = False, width: int | None = None) -> Console:
    """A console that prints texts as they are: names and answers are other people's."""
    return Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


def new_table(*columns: str, numbers: Sequence[str] = (), title: str = "", note: str = "") -> Table:
    """A table without rows.

    Args:
        columns: headings; what stands in the first is never cut, since it is to be copied.
        numbers: which of them are of numbers.
        title: heading of the table.
        note: what to know when reading it, below the table.
    """
    return Table(
        *(
            Column(name, no_wrap=not place, justify="right" if name in numbers else "left")
            for place, name in enumerate(columns)
        ),
        title=title or None,
        title_justify="left",
        caption=note or None,
        caption_justify="left",
    )


def new_progress(console: Console | None = None, of_bytes: bool = False) -> Progress:
    """A bar with the time left: gone at the end, and none where the console is no terminal.

    Args:
        console: where it stands; None is standard error, which keeps the output for results.
        of_bytes: whether bytes are counted, which the bar shows in place of a share.
    """
    console = console or new_console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn() if of_bytes else TaskProgressColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def track(items: Sequence[T], description: str) -> Iterator[T]:
    """The items, under a bar of `new_progress`."""
    with new_progress() as progress:
        yield from progress.track(items, description=description)
