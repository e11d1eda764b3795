"""What commands show on a terminal: one style of tables, and the time left of what takes long.

rich leaves colours out where `NO_COLOR` is set or the output is no terminal.
"""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table


def console(stderr: bool = False, width: int | None = None) -> Console:
    """A console that prints texts as they are: names and answers are other people's."""
    return Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


def new_table(*texts: str, numbers: tuple[str, ...] = (), title: str | None = None) -> Table:
    """A table without rows: columns of texts, then columns of numbers."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in texts:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def progress_bar(on: Console | None = None) -> Progress:
    """A bar with the time left, on standard error: gone at the end, and nothing where standard
    error is no terminal."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=on or console(stderr=True),
        transient=True,
    )
