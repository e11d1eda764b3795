"""Which files a reader went by, in the state they were in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple


class Source(NamedTuple):
    """A file by its path as the reader has it and from the file system's root, with its size in
    bytes and its time in nanoseconds; these are None where there is no such file."""

    given: str
    path: str
    size: int | None
    modified: int | None


FLEETING = Source("", "", None, None)
"""No file: what no later process finds."""


def state(path: str | Path) -> Source:
    """A file as it is now."""
    given = str(path)
    try:
        found = os.stat(given)
    except OSError:
        return Source(given, os.path.abspath(given), None, None)
    return Source(given, os.path.abspath(given), found.st_size, found.st_mtime_ns)


_noted: ContextVar[dict[str, Source] | None] = ContextVar("noted", default=None)


@contextmanager
def noting() -> Iterator[dict[str, Source]]:
    """Inside, `note` adds to what this gives; what is noted inside another counts for both."""
    outer, noted = _noted.get(), {}  # type: dict[str, Source] | None, dict[str, Source]
    token = _noted.set(noted)
    try:
        yield noted
    finally:
        _noted.reset(token)
        if outer is not None:
            for given, source in noted.items():
                outer.setdefault(given, source)


def note(path: str | Path) -> None:
    """Say that what is read depends on a file; before it is opened, so that no change is missed."""
    noted = _noted.get()
    if noted is not None:
        noted.setdefault(str(path), state(path))


def note_fleeting() -> None:
    """Say that what is read depends on something that goes with this process."""
    noted = _noted.get()
    if noted is not None:
        noted[FLEETING.given] = FLEETING


def is_there(path: Path) -> bool:
    """Whether there is such a file, where a reader goes on either way."""
    note(path)
    return path.is_file()
