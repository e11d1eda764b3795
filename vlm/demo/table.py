"""Many questions at once: a table and images in, the table with answers out, all in memory."""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import PurePosixPath
from time import monotonic
from typing import NamedTuple

from vlm.asking import percent
from vlm.core.validation import counted
from vlm.datasets.readers.columns import missing_columns
from vlm.datasets.readers.csv_file import read_csv
from vlm.datasets.readers.json_file import MemoryFile
from vlm.datasets.readers.records import Record
from vlm.datasets.readers.rows import COLUMNS
from vlm.demo.asker import Asker
from vlm.evaluation.answer_table import ADDED, Said, addition, check_columns, write_csv
from vlm.serve.reader import MAX_BYTES

MAX_ROWS = 1000
MAX_COLUMNS = 100
MAX_TABLE = 5_000_000
MAX_FILES = 1000
MAX_UNPACKED = 10 * MAX_BYTES
"""Limits of one table, and of the files in its archive."""
SECONDS = 600.0
"""Time limit for a table; the rows after it get an error."""
SHOWN = 10
"""Rows that the page shows."""
TOGETHER = 16
"""Rows that a model answers in one turn: other visitors' questions come between."""
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Other methods can ask for gigabytes of memory."""
UNREADABLE = (zipfile.BadZipFile, zlib.error, RuntimeError)
"""What zipfile raises for an archive that is damaged or has a password, besides errors of files."""
_NUMBER = re.compile(r"[+-]?\d+([.,]\d+)*")


class Answered(NamedTuple):
    """A table with a model's answers.

    Attributes:
        content: the CSV file.
        rows: the number of its rows.
        errors: how many of them have an error instead of an answer.
        head: of some of them, those with an error first: image, question, answer, probability and
            what was noted.
    """

    content: bytes
    rows: int
    errors: int
    head: list[list[str]]


def unpack(files: Iterable[tuple[str, bytes]]) -> dict[str, bytes]:
    """Images by name, of image files and of those in zip archives.

    Raises:
        ValueError: an archive that cannot be read or holds too much, or two files of one name.
    """
    found: dict[str, bytes] = {}
    for name, content in _all_files(files):
        if name in found:
            raise ValueError(f"images: got two files named {name!r}; expected each name once.")
        found[name] = content
        if len(found) > MAX_FILES or sum(map(len, found.values())) > MAX_UNPACKED:
            raise ValueError(
                f"images: got more than {MAX_FILES:,} files or {MAX_UNPACKED // 10**6} MB; use "
                f"`vlm predict` for as many."
            )
    return found


def _all_files(files: Iterable[tuple[str, bytes]]) -> Iterable[tuple[str, bytes]]:
    for name, content in files:
        if not zipfile.is_zipfile(io.BytesIO(content)):
            yield name, content
            continue
        # Before the entries are listed, which takes seconds for 10 MB of them: folders count too.
        if content.count(b"PK\1\2") > 2 * MAX_FILES:
            raise ValueError(
                f"images: {name!r} has more than {2 * MAX_FILES:,} files and folders; use `vlm "
                f"predict` for as many."
            )
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                for entry in archive.infolist():
                    if entry.is_dir():
                        continue
                    if entry.compress_type not in METHODS:
                        raise ValueError("packed by an unusual method; pack it as plain zip")
                    with archive.open(entry) as opened:
                        unpacked = opened.read(MAX_BYTES + 1)
                    yield entry.filename, unpacked
        except (*UNREADABLE, OSError, EOFError, ValueError) as error:
            raise ValueError(f"images: {name!r} cannot be unpacked ({error}).") from None


def answer_table(
    asker: Asker,
    name: str,
    table: MemoryFile,
    images: Mapping[str, bytes],
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Answered:
    """The table with the columns that `vlm predict` adds. What is wrong with a row is its error.

    Args:
        asker: has the model.
        name: of the model.
        table: CSV with the columns `image`, a file's name, and `question`; for models that choose,
            also `choices`, divided by "|".
        images: files by name.
        progress: called with the numbers of rows answered and of all rows.

    Raises:
        DataError: a table that cannot be read.
        ValueError: one without its columns, with none or too many rows, too many columns or bytes,
            or one of `ADDED`.
    """
    records = list(_records(table))
    if not 0 < len(records) <= MAX_ROWS:
        raise ValueError(f"{table}: got {_number(len(records))}; expected 1 to {MAX_ROWS:,}.")
    columns = records[0].columns
    if missing := [column for column in ("image", "question") if column not in columns]:
        known = {column: column for column in COLUMNS}
        raise ValueError(f"{table}: {missing_columns(missing, columns, known, set())}")
    if taken := [column for column in ADDED if column in columns]:
        raise ValueError(f"{table}: got the column {taken[0]!r}, which is added; rename it.")
    check_columns(records[0])
    find = _Finder(images)
    said: list[Said] = []
    end = monotonic() + SECONDS
    for start in range(0, len(records), TOGETHER):
        progress(start, len(records))
        said += _batch(asker, name, records[start : start + TOGETHER], find, end)
    file = io.StringIO()
    plain = [{**one, "prediction": _as_text(one["prediction"])} for one in said]
    pairs = list(zip(records, plain, strict=True))
    errors = sum(bool(one["error"]) for one in write_csv(file, [*columns, *ADDED], pairs))
    worst = sorted(pairs, key=lambda pair: not pair[1]["error"])
    head = [_short(*pair) for pair in worst[:SHOWN]]
    return Answered(file.getvalue().encode("utf-8-sig"), len(records), errors, head)


def _records(table: MemoryFile) -> Iterable[Record]:
    """The rows of a table, and at most one more than there may be."""
    if len(table.content) > MAX_TABLE:
        raise ValueError(
            f"{table}: got {len(table.content) / 1e6:,.1f} MB; expected at most "
            f"{MAX_TABLE // 10**6} MB. Leave out columns that are not needed."
        )
    rows = islice(read_csv(table, set(COLUMNS), ","), MAX_ROWS + 1)
    for number, (line, names, values) in enumerate(rows, start=1):
        if len(names) > MAX_COLUMNS:  # searching many for the likely ones takes minutes
            raise ValueError(
                f"{table}: got {len(names):,} columns; expected at most {MAX_COLUMNS}."
            )
        yield Record(number, f"{table}, line {line}", names, values)


def _as_text(prediction: str | None) -> str | None:
    """An answer that no spreadsheet takes for a formula: a model may write what an image says."""
    if prediction is None or not prediction.startswith(("=", "+", "-", "@", "\t", "\r")):
        return prediction
    return prediction if _NUMBER.fullmatch(prediction) else f"'{prediction}"


def _short(record: Record, said: Said) -> list[str]:
    known = said["probability"]
    return [
        record.values["image"],
        record.values["question"],
        said["prediction"] or "",
        "" if known is None else percent(known),
        said["error"] or said["warnings"],
    ]


def _number(rows: int) -> str:
    return f"more than {MAX_ROWS:,} rows" if rows > MAX_ROWS else counted(rows, "row")


_LATE = addition(error=f"Not answered: the table took longer than {SECONDS:g} s.")


def _batch(asker: Asker, name: str, records: list[Record], find: _Finder, end: float) -> list[Said]:
    """What the model says to some rows.

    If that fails, the rows are halved and asked again, until only the row with the mistake has an
    error. After the `end`, no more are answered.
    """
    if monotonic() > end:
        return [_LATE for _ in records]
    try:
        contents = [find(record.values["image"]) for record in records]
        rows = [
            {
                "question": record.values["question"],
                "choices": _choices(record.values.get("choices", "")),
            }
            for record in records
        ]
        return asker.answer_rows(name, contents, rows)
    except (ValueError, OSError) as error:
        if len(records) > 1:
            half = len(records) // 2
            parts = records[:half], records[half:]
            return [said for part in parts for said in _batch(asker, name, part, find, end)]
        return [addition(error=str(error))]


def _choices(cell: str) -> list[str]:
    """Choices divided by "|"; none of an empty cell, which a model that writes needs."""
    return [choice.strip() for choice in cell.split("|")] if cell.strip() else []


class _Finder:
    """Finds images by their name, or by the end of it: archives often have a folder around."""

    def __init__(self, images: Mapping[str, bytes]) -> None:
        self.images = images
        self.short: dict[str, list[str]] = {}
        for name in images:
            self.short.setdefault(PurePosixPath(name).name, []).append(name)

    def __call__(self, name: str) -> bytes:
        name = name.strip()
        if name in self.images:
            return self.images[name]
        there = self.short.get(PurePosixPath(name.replace("\\", "/")).name, [])
        if len(there) != 1:
            found = "none of the images" if not there else f"{len(there)} images"
            raise ValueError(f"image: got {name!r:.80}, the name of {found} that were sent.")
        return self.images[there[0]]
