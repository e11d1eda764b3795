"""What commands show on a terminal: one style of tables, and the time that long work takes.

rich leaves colours out where `NO_COLOR` is set or the output is no terminal.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text

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


class _Time(TimeRemainingColumn):
    """The time left; of a task without a total, the time so far."""

    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text(f"{timedelta(seconds=int(task.elapsed or 0))} so far", "progress.elapsed")
        return super().render(task).append(" left")


@cache
def _stderr() -> Console:
    # One: the bars of one console stand one below the other, those of several overwrite each other.
    return new_console(stderr=True)


def new_progress(console: Console | None = None, of_bytes: bool = False) -> Progress:
    """A bar with the time left: gone at the end, and none where the console is no terminal.

    A task without a total (None) has a moving bar and the time so far. Inside another bar, the new
    one is below it. Of the processes of a training, the first of each machine alone shows bars.

    Args:
        console: where it stands; None is standard error, which keeps the output for results.
        of_bytes: whether bytes are counted, which the bar shows in place of a share.
    """
    console = console or _stderr()
    first = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")) == "0"
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn() if of_bytes else TaskProgressColumn(),
        _Time(),
        console=console,
        transient=True,
        disable=not (console.is_terminal and first),
    )


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """The items, under a bar of `new_progress`; write it into the `for`, or it outlives an error.

    Args:
        items: what is worked on.
        description: what is done.
        total: number of items, where `items` has no length.
    """
    with new_progress() as progress:
        yield from progress.track(items, total, description=description)


@contextmanager
def working(description: str) -> Iterator[None]:
    """A bar of `new_progress` for work whose length is unknown: what is done, and since when."""
    with new_progress() as progress:
        progress.add_task(description, total=None)
        yield
