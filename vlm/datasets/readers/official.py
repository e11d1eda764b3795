"""What the readers of official files share: the file, its records, its number of questions."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar

import pyarrow as pa

from vlm.core.validation import counted, shorten
from vlm.datasets.errors import DataError, is_collecting, report
from vlm.datasets.readers.json_file import read_json, read_lines
from vlm.datasets.sources import is_there
from vlm.datasets.table import question_table, source_of

Which = TypeVar("Which")
Record = TypeVar("Record")
Row = TypeVar("Row")
Rows = Iterator[dict[str, Any]]
"""Rows of a question table."""


class MissingFile(DataError, FileNotFoundError):
    """A file of a data set is not there; the message says where to get it."""


def official_file(path: Path, get: str) -> Path:
    """`path`, or a `MissingFile` that says with the sentence `get` where the set comes from."""
    if not path.is_file():
        raise MissingFile(f"{path}: there is no such file. {get}")
    return path


def json_file(path: Path, get: str) -> Path:
    """`path`, or the same with `.gz`, whichever is there; else as `official_file`."""
    packed = path.with_name(path.name + ".gz")
    return packed if is_there(packed) and not is_there(path) else official_file(path, get)


def json_records(
    path: Path, name: str, shrink: Callable[[dict[str, Any]], Any] | None = None
) -> list[Any]:
    """The list that a JSON file is, or holds under a name; `shrink` as for `read_json`."""
    content = read_json(path, shrink)
    records = content.get(name) if isinstance(content, dict) else content
    if not isinstance(records, list):
        raise DataError(
            f"{path}: expected a JSON list, or an object with a list of {name!r}. Is this the "
            f"set's own file?"
        )
    return records


def records_table(
    records: Iterable[Record], rows: Callable[[int, Record], Rows], source: Path | str
) -> pa.Table:
    """The questions of a file's records; `rows` gets their numbers, from 1."""
    return question_table(each_record(enumerate(records, start=1), rows), str(source))


def each_record(
    records: Iterable[tuple[Which, Record]], rows: Callable[[Which, Record], Iterable[Row]]
) -> Iterator[Row]:
    """The rows of a file's records. A malformed record is reported; a check then reads the next.

    A record comes with its number (from 1), id or line; `rows` gives none for one that is left out,
    and raises DataError where it is malformed.
    """
    for which, record in records:
        try:
            yield from rows(which, record)
        except DataError as error:
            report("malformed record", str(error))


_EXPECTED: dict[type | UnionType, str] = {
    str: "a text",
    int: "a whole number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
    str | int: "a text or a whole number",
    str | None: "a text or null",
    int | None: "a whole number or null",
}


def fields(
    record: Any, source: Path, which: int | str, **kinds: type | UnionType
) -> tuple[Any, ...]:
    """The values of a JSON record's fields, in the order of `kinds`, their names and types.

    `source` and `which`, the record's number (from 1) or id, are for the error.

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
                f"{source}, question {which!r}: got {got} for {name!r}; expected "
                f"{_EXPECTED[kind]}. Is this the set's own file?"
            )
        values.append(value)
    return tuple(values)


def check_size(table: pa.Table, published: int | None, cited: str) -> None:
    """Warn of another number of questions than was published: a part of a file reads like all."""
    if published is not None and len(table) != published:
        # What is wrong with the others is among the problems.
        usable = " that can be used" if is_collecting() else ""
        warnings.warn(
            f"{source_of(table)}: got {counted(len(table), 'question')}{usable}; {cited} gives "
            f"{published:,}. Get the file again, unless it was shortened on purpose.",
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
