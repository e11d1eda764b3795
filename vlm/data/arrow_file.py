"""Tables in Arrow files, of which memory holds what is in use."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import IO

import pyarrow as pa


def write_arrow(
    file: IO[bytes] | str, batches: Iterable[pa.RecordBatch], schema: pa.Schema
) -> None:
    """Write a table, one batch in memory at a time."""
    with pa.ipc.new_file(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def map_arrow(path: str | Path) -> pa.Table:
    """The table of a file, mapped: opening takes no time, and processes share its memory.

    Raises:
        OSError: there is no such file.
        pyarrow.ArrowException: it is no whole Arrow file.
    """
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()
