"""Rows of a JSONL, JSON, CSV, TSV or Parquet file, one at a time, each with its place."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from vlm.data.json_file import read_json, read_json_lines, read_lines
from vlm.data.problems import DataError, report
from vlm.data.sources import note

FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
PICTURES_AT_ONCE = 64
"""Rows of a Parquet file in memory at a time; they may hold pictures."""


class Record(NamedTuple):
    """A row as its file has it.

    Attributes:
        number: of the row, counted from 1.
        place: file and line (or row, or entry).
        columns: of the file, or of this row where each has its own.
        values: by the file's own column names.
    """

    number: int
    place: str
    columns: Collection[str]
    values: dict[str, Any]


def read_records(path: str, columns: Collection[str]) -> Iterator[Record]:
    """Rows of a file; `.gz` is unpacked.

    Args:
        path: its ending names the format.
        columns: names that are wanted; Parquet reads only these.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: a file of another format, or one that cannot be read.
    """
    format = file_format(path)
    if format is None:
        raise DataError(
            f"{path}: got a file of another format; wanted one that ends in "
            f"{', '.join(FORMATS)}, these with .gz (not Parquet), or a folder of Hugging Face "
            f"datasets."
        )
    if format == "jsonl":
        for number, row in read_json_lines(path):
            yield Record(number, f"{path}, line {number}", row.keys(), row)
    elif format == "json":
        yield from _entries(Path(path))
    elif format == "parquet":
        yield from _parquet(Path(path), columns)
    else:
        yield from _csv(Path(path), "," if format == "csv" else "\t")


def file_format(path: str) -> str | None:
    """jsonl, json, csv, tsv or parquet; None for another."""
    name = path.lower().removesuffix(".gz")
    return next((FORMATS[end] for end in FORMATS if name.endswith(end)), None)


def is_text(path: str) -> bool:
    """Whether every cell is text: of CSV and TSV."""
    return file_format(path) in ("csv", "tsv")


def _entries(path: Path) -> Iterator[Record]:
    content = read_json(path)
    if not isinstance(content, list):
        raise DataError(
            f"{path}: got a JSON {type(content).__name__}; wanted a list of objects, one for each "
            f"question."
        )
    for number, row in enumerate(content, start=1):
        if isinstance(row, dict):
            yield Record(number, f"{path}, entry {number}", row.keys(), row)
        else:
            report(
                "unreadable line",
                f"{path}, entry {number}: got {str(row)[:60]!r}; wanted an object.",
            )


def _csv(path: Path, delimiter: str) -> Iterator[Record]:
    csv.field_size_limit(2**31 - 1)  # a cell may hold a picture
    reader = csv.reader(_decoded(path), delimiter=delimiter, strict=True)
    header: list[str] = []
    number = 0
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            number += bool(header)
            report(
                "unreadable line",
                f"{path}, line {line}: {error}. A cell that holds {delimiter!r}, a quote or a line "
                f'break stands in "quotes", and a quote in it twice.',
            )
            continue
        if not cells:
            continue
        if not header:
            header = [name.strip() for name in cells]
            if len(set(header)) != len(header):
                raise DataError(f"{path}, line {line}: a column stands there twice: {header}.")
            continue
        number += 1
        if len(cells) != len(header):
            report(
                "unreadable line",
                f"{path}, line {line}: got {len(cells)} cells; wanted {len(header)}, as the first "
                f'line. A cell that holds {delimiter!r} stands in "quotes".',
            )
            continue
        values = dict(zip(header, cells, strict=True))
        yield Record(number, f"{path}, line {line}", header, values)
    if not header:
        raise DataError(f"{path}: the file is empty; wanted a first line with the columns' names.")


def _decoded(path: Path) -> Iterator[str]:
    for number, start, line in read_lines(path):
        encoding = "utf-8-sig" if number == 1 else "utf-8"
        try:
            yield line.decode(encoding)
        except UnicodeDecodeError as error:
            report(
                "unreadable line",
                f"{path}, line {number}, byte {start + error.start}: not UTF-8 text; save the file "
                f"as UTF-8.",
            )
            yield line.decode(encoding, "replace")


def _parquet(path: Path, columns: Collection[str]) -> Iterator[Record]:
    note(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    try:
        # Buffered: a file may be one row group of many gigabytes.
        with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            there = file.schema_arrow.names
            names = [name for name in there if name in columns]
            batches = file.iter_batches(PICTURES_AT_ONCE, columns=names, use_threads=False)
            yield from arrow_records(batches, there, path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error}).") from None


def arrow_records(
    batches: Iterable[pa.RecordBatch | pa.Table], columns: Collection[str], source: Path | str
) -> Iterator[Record]:
    """Rows of Arrow batches, which may hold some of the file's columns only."""
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            yield Record(number, f"{source}, row {number}", columns, row)
