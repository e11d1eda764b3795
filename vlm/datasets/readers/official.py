"""What the readers of official files share: the file, its records, its number of questions."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar

from vlm.core.validation import shorten
from vlm.datasets.errors import DataError, is_collecting, report
from vlm.datasets.readers.json_file import read_lines

Which = TypeVar("Which")
Record = TypeVar("Record")
Row = TypeVar("Row")


class MissingFile(DataError, FileNotFoundError):
    """A file of a data set is not there; the message says where to get it."""


def official_file(path: Path, get: str) -> Path:
    """`path`, if that is a file.

    Args:
        path: where it is expected.
        get: a sentence that says where the set comes from.

    Raises:
        MissingFile: it is not there.
    """
    if not path.is_file():
        raise MissingFile(f"{path}: there is no such file. {get}")
    return path


def each_record(
    records: Iterable[tuple[Which, Record]], rows: Callable[[Which, Record], Iterable[Row]]
) -> Iterator[Row]:
    """The rows of a file's records. A malformed record is reported; a check then reads the next.

    Args:
        records: each with its number (from 1), id or line.
        rows: of one record, none for one that is left out; raises DataError where it is malformed.
    """
    for which, record in records:
        try:
            yield from rows(which, record)
        except DataError as error:
            report("malformed record", str(error))


_WANTED: dict[type | UnionType, str] = {
    str: "a text",
    int: "a whole number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
    str | int: "a text or a whole number",
    str | None: "a text or null",
}


def fields(
    record: Any, source: Path, which: int | str, **kinds: type | UnionType
) -> tuple[Any, ...]:
    """The values of a JSON record's fields, in the order of `kinds`.

    Args:
        record: what stands in the file.
        source: the file, for the error.
        which: the record's number (from 1) or id, for the error.
        kinds: name and type of each field.

    Raises:
        DataError: not an object, or a field that is missing or of another type.
    """
    if not isinstance(record, dict):
        raise DataError(
            f"{source}, question {which!r}: got {shorten(record)}; expected an object with "
            f"{', '.join(kinds)}. Is this the set's own file?"
        )
    values = []
    for name, kind in kinds.items():
        value = record.get(name)
        if not isinstance(value, kind):
            got = shorten(value) if name in record else "nothing"
            raise DataError(
                f"{source}, question {which!r}: got {got} for {name!r}; expected {_WANTED[kind]}. "
                f"Is this the set's own file?"
            )
        values.append(value)
    return tuple(values)


def check_size(questions: int, published: int | None, source: Path | str, cited: str) -> None:
    """Warn of another number of questions than was published: a part of a file reads like all.

    Args:
        questions: that were read.
        published: for this split; None where the set's authors give no number.
        source: what was read, for the message.
        cited: who gives the number.
    """
    if published is not None and questions != published:
        # What is wrong with the others is among the problems.
        usable = " that can be used" if is_collecting() else ""
        warnings.warn(
            f"{source}: got {questions:,} questions{usable}; {cited} gives {published:,}. Get the "
            f"file again, unless it was shortened on purpose.",
            stacklevel=2,
        )


def text_lines(path: Path) -> list[str]:
    """The lines of a text file, without white space at their ends.

    Raises:
        DataError: naming file, line and byte of what is not UTF-8.
    """
    lines = []
    for number, start, line in read_lines(path):
        try:
            lines.append(line.decode("utf-8-sig" if number == 1 else "utf-8").strip())
        except UnicodeDecodeError as error:
            report(
                "unreadable line",
                f"{path}, line {number}, byte {start + error.start}: not UTF-8 text. Get the file "
                f"again.",
            )
            lines.append(line.decode("utf-8", "replace").strip())  # the others keep their numbers
    return lines
