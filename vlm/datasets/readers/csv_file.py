"""Rows of CSV and TSV files, as spreadsheets and data frames write them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Set
from itertools import chain
from pathlib import Path

from vlm.core.validation import counted
from vlm.datasets.errors import DataError, report
from vlm.datasets.readers.json_file import MemoryFile, decoded, read_lines

DELIMITERS = ",;\t|"
_SEP = re.compile(r'"?sep=(.)"?[,;\t]*\s*', re.IGNORECASE)
"""A first line of Excel's that names the delimiter."""


def read_csv(
    path: Path | MemoryFile, columns: Set[str], delimiter: str
) -> Iterator[tuple[int, list[str], dict[str, str]]]:
    """For each row, its first line (counted from 1), the columns' names, and its cells.

    The first line gives the delimiter; `delimiter` is used if it leaves that open. Empty rows, and
    columns without a name, are skipped.

    Raises:
        DataError: no column names, or one of `columns`, which are read, appears twice.
    """
    csv.field_size_limit(2**31 - 1)  # a cell may hold an image
    begin: list[str] = []
    lines = _lines(path)
    for line in lines:
        sep = None if any(map(str.strip, begin)) else _SEP.fullmatch(line)
        begin.append("\n" if sep else line)  # the others keep their numbers
        if sep:
            delimiter = sep[1]
        elif line.strip(DELIMITERS + '" \r\n'):
            delimiter = _delimiter(line, columns, delimiter)
            break
    reader = csv.reader(
        chain(begin, lines), delimiter=delimiter, skipinitialspace=True, strict=True
    )
    header, rows = list[str](), 0
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            what = str(error)
            if what == "unexpected end of data":
                what = "a quote is not closed, so nothing from here to the file's end can be read"
            report(
                "unreadable line",
                f"{path}, line {number}: {what}. Put a cell that holds {delimiter!r}, a quote or "
                f'a line break in "quotes", and write each quote in it twice.',
            )
            continue
        if not any(cell.strip(" \t") for cell in cells):
            continue
        if not rows and _is_rule(cells, delimiter):
            continue
        if not header:
            header = [name.strip("\ufeff \t\r\n\xa0") for name in cells]
            if twice := [name for name in columns if header.count(name) > 1]:
                raise DataError(
                    f"{path}, line {number}: the column {twice[0]!r} appears twice: {header}."
                )
            continue
        rows += 1
        # Some programs leave out empty cells at the end of a row.
        more = cells[len(header) :]
        if (more and any(more)) or not columns.isdisjoint(header[len(cells) :]):
            report(
                "unreadable line",
                f"{path}, line {number}: got {counted(len(cells), 'cell')}; expected "
                f"{len(header)}, as in the first line. Put a cell that holds {delimiter!r} in "
                f'"quotes".',
            )
            continue
        yield number, [name for name in header if name], dict(zip(header, cells, strict=False))
    if not header:
        raise DataError(
            f"{path}: the file is empty; expected a first line with the columns' names."
        )


def _delimiter(header: str, columns: Set[str], usual: str) -> str:
    """The delimiter that gives most of the columns that are read, or else most columns."""

    def fits(delimiter: str) -> tuple[int, int, bool]:
        (names,) = csv.reader([header], delimiter=delimiter)
        known = {name.strip("\ufeff \t\r\n\xa0").lower() for name in names}
        return len(known & {name.lower() for name in columns}), len(names), delimiter == usual

    return max(DELIMITERS, key=fits)


def _lines(path: Path | MemoryFile) -> Iterator[str]:
    for number, start, line in read_lines(path):
        text = decoded(line, path, number, start)
        if "\r" in text.rstrip("\r\n"):  # of an old Mac, or in a cell
            yield from io.StringIO(text, newline="")
        else:
            yield text


def _is_rule(cells: list[str], delimiter: str) -> bool:
    """Whether a line is the one under a table's header; "-" alone is a cell without a value."""
    if any(cell.strip(" \t-:") for cell in cells):
        return False
    return delimiter == "|" or any("--" in cell for cell in cells)
