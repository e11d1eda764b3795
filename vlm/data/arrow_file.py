"""Tables in Arrow files, of which memory holds what is in use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import pyarrow as pa

PIECE = 1 << 17
"""Rows that are written together, at least. The rows of a batch lie all over a table, and Arrow is
asked once for each piece that they lie in; more at a time would take as much memory again."""


def write_arrow(
    file: IO[bytes] | str, batches: Iterable[pa.RecordBatch], schema: pa.Schema
) -> None:
    """Write a table, one piece in memory at a time."""
    with pa.ipc.new_file(file, schema) as writer:
        for piece in _pieces(batches, schema):
            writer.write_batch(piece)


def _pieces(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(map(len, held)) >= PIECE:
            yield from pa.Table.from_batches(held, schema).combine_chunks().to_batches()
            held = []
    yield from pa.Table.from_batches(held, schema).combine_chunks().to_batches()


def map_arrow(path: str | Path) -> pa.Table:
    """The table of a file, mapped: opening takes no time, and processes share its memory.

    Raises:
        OSError: there is no such file.
        pyarrow.ArrowException: it is no whole Arrow file.
    """
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()
