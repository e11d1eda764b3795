"""Rows of a table as Python values, those of a whole batch at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

SMALL = 10**7
"""Bytes of a table whose values are all made at once, and kept."""


class TableRows:
    """Any rows of some columns of texts and lists of texts.

    Arrow makes the values, a column at a time, which is several times as fast as asking for one
    after the other. Those of a small table are made beforehand; of a large one those of `take`
    alone, so that memory does not grow with the table. What is equal is one object.
    """

    def __init__(self, table: pa.Table, columns: Sequence[str]) -> None:
        chosen = table.select(list(columns))
        self._schema, self._chunks = chosen.schema, chosen.to_batches()
        lengths = np.array([len(chunk) for chunk in self._chunks], np.int64)
        self._ends = np.cumsum(lengths)
        self._starts = self._ends - lengths
        self._all: list[list[Any]] | None = None
        if chosen.nbytes <= SMALL:
            self._all = self._made(np.arange(len(table)))

    def take(self, rows: np.ndarray) -> list[list[Any]]:
        """The values of each column in the rows with numbers (R,) int64; lists are tuples."""
        if self._all is None:
            return self._made(rows)
        numbers = rows.tolist()
        return [[values[number] for number in numbers] for values in self._all]

    def _made(self, rows: np.ndarray) -> list[list[Any]]:
        # From one chunk after the other: `Table.take` would first copy all of them into one.
        order = np.argsort(rows, kind="stable")
        ordered, back = rows[order], np.argsort(order).tolist()
        # Looking at every chunk for every batch would take time that grows with the table's square.
        chunk_of = np.searchsorted(self._ends, ordered, side="right")
        chunks, starts = np.unique(chunk_of, return_index=True)
        taken = [
            (self._chunks[chunk], pa.array(ordered[first:last] - self._starts[chunk]))
            for chunk, (first, last) in zip(
                chunks.tolist(), pairwise([*starts.tolist(), len(rows)]), strict=True
            )
        ]
        found = []
        for column, field in enumerate(self._schema):
            parts = [chunk.column(column).take(places) for chunk, places in taken]
            values = _values(pa.concat_arrays(parts) if parts else pa.array([], field.type))
            found.append([values[place] for place in back])
        return found


def _values(array: pa.Array) -> list[Any]:
    if pa.types.is_list(array.type):
        values, ends = _values(array.values), array.offsets.to_numpy().tolist()
        made = (tuple(values[start:end]) for start, end in pairwise(ends))
        known: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        lists: list[Any] = [known.setdefault(content, content) for content in made]
        for row in np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False)):
            lists[row] = None
        return lists
    encoded = array.dictionary_encode("encode")  # a null is a value too
    texts = encoded.dictionary.to_numpy(zero_copy_only=False).tolist()
    return [texts[number] for number in encoded.indices.to_numpy().tolist()]
