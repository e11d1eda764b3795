"""Rows of a JSONL, JSON, CSV, TSV or Parquet file, one at a time, each with its place."""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections.abc import Collection, Iterable, Iterator, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vlm.datasets.errors import DataError, report
from vlm.datasets.readers.csv_file import read_csv
from vlm.datasets.readers.json_file import check_is_text, read_json, read_json_lines, read_lines
from vlm.datasets.sources import note

if TYPE_CHECKING:  # in an extra that the demo, whose tables are CSV, does without
    import pyarrow as pa

FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "tsv",  # Excel's "Unicode text"
    ".parquet": "parquet",
}
ROWS_AT_ONCE = 64
"""Rows of a Parquet file in memory at a time; they may hold images."""


class Record(NamedTuple):
    """A row as its file has it.

    Attributes:
        number: of the row, counted from 1.
        place: file and line (or row, or entry).
        columns: columns of the file, or of this row where each has its own.
        values: by the file's own column names.
    """

    number: int
    place: str
    columns: Collection[str]
    values: dict[str, Any]


def read_records(path: str, columns: Set[str], format: str | None = None) -> Iterator[Record]:
    """Rows of a file; `.gz` is unpacked.

    Args:
        path: path of the file; JSON may be one object per line under any ending.
        columns: names that are expected; Parquet reads only these.
        format: jsonl, json, csv, tsv or parquet; None for the one that the ending names.

    Raises:
        FileNotFoundError: a file that does not exist.
        DataError: a file of another format, or one that cannot be read.
    """
    format = format or file_format(path)
    if format is None:
        check_is_text(path)
        raise DataError(
            f"{path}: got a file of another format; expected one that ends in "
            f"{', '.join(FORMATS)}, these with .gz (not Parquet), or a folder of Hugging Face "
            f"datasets."
        )
    if format in ("jsonl", "json"):
        if _is_lines(path, format == "jsonl"):
            for number, row in read_json_lines(path):
                yield Record(number, f"{path}, line {number}", row.keys(), row)
        else:
            yield from _entries(Path(path), columns)
    elif format == "parquet":
        yield from _parquet(Path(path), columns)
    else:
        rows = read_csv(Path(path), columns, "," if format == "csv" else "\t")
        for number, (line, names, row) in enumerate(rows, start=1):
            yield Record(number, f"{path}, line {line}", names, row)


def file_format(path: str) -> str | None:
    """jsonl, json, csv, tsv or parquet; None for another."""
    name = path.lower().removesuffix(".gz")
    return next((FORMATS[end] for end in FORMATS if name.endswith(end)), None)


def _is_lines(path: str, named_so: bool) -> bool:
    """Whether a JSON file has an object on each line instead of one value."""
    lines = (line.strip() for _, _, line in read_lines(path) if line.strip())
    first = next(lines, b"").removeprefix(BOM_UTF8)
    if first.startswith(b"[") or next(lines, None) is None:
        return named_so and not first.startswith(b"[")
    if named_so:
        return first != b"{"
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _entries(path: Path, columns: Set[str]) -> Iterator[Record]:
    content = read_json(path)
    rows = _rows_of(content, columns)
    if rows is None:
        named = (
            f" with {', '.join(map(repr, content))}"[:80]
            if content and isinstance(content, dict)
            else ""
        )
        raise DataError(
            f"{path}: got a JSON {type(content).__name__}{named}; expected a list of objects, one "
            f"per question."
        )
    if rows and not any(isinstance(row, dict) for row in rows):
        raise DataError(
            f"{path}, entry 1: got {rows[0]!r:.60}; expected an object with column names "
            f"(from pandas: to_json(..., orient='records', lines=True))."
        )
    for number, row in enumerate(rows, start=1):
        if isinstance(row, dict):
            yield Record(number, f"{path}, entry {number}", row.keys(), row)
        else:
            report(
                "unreadable line",
                f"{path}, entry {number}: got {str(row)[:60]!r}; expected an object.",
            )


def _rows_of(content: Any, columns: Set[str]) -> list[Any] | None:
    """The rows of a JSON document: a list, an object that holds one, the output of pandas with any
    `orient`, or objects by id."""
    if isinstance(content, list) or not isinstance(content, dict):
        return content if isinstance(content, list) else None
    values = list(content.values())
    lists = [v for v in values if isinstance(v, list) and v and isinstance(v[0], dict)]
    fitting = [rows for rows in lists if len(columns & rows[0].keys()) > 1]
    names, data = content.get("columns"), content.get("data")
    if isinstance(names, list) and isinstance(data, list):
        return [dict(zip(names, row, strict=False)) for row in data]
    if len(fitting or lists) == 1 and (fitting or len(columns & content.keys()) < 2):
        return (fitting or lists)[0]
    if values and all(isinstance(value, dict) for value in values):
        if not columns.isdisjoint(content):
            return [{name: content[name].get(key) for name in content} for key in values[0]]
        return [{"id": key} | row for key, row in content.items()]
    if columns.isdisjoint(content):
        return None
    if all(isinstance(value, list) and len(value) == len(values[0]) for value in values):
        return [dict(zip(content, row, strict=True)) for row in zip(*values, strict=True)]
    return [content]


def _parquet(path: Path, columns: Collection[str]) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    note(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    try:
        # Buffered: a file may be one row group of many gigabytes.
        with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            there = file.schema_arrow.names
            names = [name for name in there if name in columns]
            batches = file.iter_batches(ROWS_AT_ONCE, columns=names, use_threads=False)
            yield from arrow_records(batches, there, path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error}).") from None


def arrow_records(
    batches: Iterable[pa.RecordBatch | pa.Table], columns: Collection[str], source: Path | str
) -> Iterator[Record]:
    """Rows of Arrow batches, which may hold some of the file's columns only."""
    number = 0
    for batch in batches:
        for row in _without_times(batch).to_pylist():
            number += 1
            yield Record(number, f"{source}, row {number}", columns, row)


def _without_times(batch: pa.RecordBatch | pa.Table) -> pa.RecordBatch | pa.Table:
    """Times as text, since Python's own types lack nanoseconds, and short floats as the shortest
    equal decimal."""
    import pyarrow as pa

    for place, field in enumerate(batch.schema):
        if pa.types.is_temporal(field.type):
            batch = batch.set_column(place, field.name, batch[field.name].cast(pa.string()))
        elif pa.types.is_float32(field.type) or pa.types.is_float16(field.type):
            text = batch[field.name].cast(pa.string())
            batch = batch.set_column(place, field.name, text.cast(pa.float64()))
    return batch
