"""Tables in Arrow files, of which memory holds what is in use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import pyarrow as pa

PIECE = 1 << 28
"""Bytes of a table that are joined. The rows of a batch lie all over a table, and Arrow is asked
once for each piece they lie in; more at a time would take as much memory again."""


def write_arrow(
    file: IO[bytes] | str, batches: Iterable[pa.RecordBatch], schema: pa.Schema
) -> None:
    """Write a table, one batch in memory at a time."""
    with pa.ipc.new_file(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def in_pieces(table: pa.Table) -> Iterator[pa.RecordBatch]:
    """The table's batches, joined to as few as `PIECE` allows."""
    held: list[pa.RecordBatch] = []
    for batch in table.to_batches():
        if held and sum(one.nbytes for one in (*held, batch)) > PIECE:
            yield from pa.Table.from_batches(held).combine_chunks().to_batches()
            held = []
        held.append(batch)
    if held:
        yield from pa.Table.from_batches(held).combine_chunks().to_batches()


def map_arrow(path: str | Path) -> pa.Table:
    """The table of a file, mapped: opening takes no time, and processes share its memory.

    Raises:
        OSError: there is no such file.
        pyarrow.ArrowException: it is no whole Arrow file.
    """
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()
