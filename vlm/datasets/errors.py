"""Mistakes in data: the first one ends a training; a check notes them all and reads on."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class DataError(ValueError):
    """Questions that cannot be used; the message names the file and the row."""

    kind = "unreadable data"
    """Of the problem, where a check notes it."""


class Problems:
    """Counts every problem and keeps the first `limit` of each kind.

    Attributes:
        kept: messages by kind, in the order of their finding.
        images: of rows that were left out, and where each stands first (`note_image`).
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.counts: Counter[str] = Counter()
        self.kept: defaultdict[str, list[str]] = defaultdict(list)
        self.images: dict[str, str] = {}
        self._said: set[int] = set()

    def add(self, kind: str, message: str) -> None:
        self.counts[kind] += 1
        if len(self.kept[kind]) < self.limit:
            self.kept[kind].append(message)

    def add_once(self, kind: str, message: str) -> None:
        """The same, but for what was added so before: a file may be read for several splits."""
        said = hash((kind, message))  # not the text: there may be one for each row
        if said not in self._said:
            self._said.add(said)
            self.add(kind, message)

    def add_unsaid(self, kind: str, count: int) -> None:
        """Count problems of which enough are kept."""
        if count:
            self.counts[kind] += count


_collected: ContextVar[Problems | None] = ContextVar("collected", default=None)


@contextmanager
def collecting(problems: Problems) -> Iterator[None]:
    """Inside, `report` notes problems instead of raising them."""
    token = _collected.set(problems)
    try:
        yield
    finally:
        _collected.reset(token)


def note_image(image: str, where: str) -> None:
    """Keep the image of a row that is left out, and its place: a check reads it all the same."""
    if (problems := _collected.get()) is not None:
        problems.images.setdefault(image, where)


def is_collecting() -> bool:
    """Whether problems are noted and not raised."""
    return _collected.get() is not None


def report(kind: str, message: str) -> None:
    """Say that something is wrong with a row; a reader leaves it out and goes on if this returns.

    Args:
        kind: the same words for all problems that are alike.
        message: file and line, what was found, what was expected, and the remedy.

    Raises:
        DataError: always, but inside `collecting`.
    """
    problems = _collected.get()
    if problems is None:
        raise DataError(message) from None
    problems.add_once(kind, message)
