"""Checksums of files' content, remembered as long as a file stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import pyarrow as pa

from vlm.core.files import locked, write_whole
from vlm.datasets.arrow import map_arrow, write_arrow

_SCHEMA = pa.schema([("name", pa.string()), ("state", pa.string()), ("digest", pa.binary(32))])
READ_AT_ONCE = 256
"""Files handed to the readers at a time."""


class Digests:
    """SHA-256 by name, kept in a file that processes share. A second start reads no file again
    whose state is the same."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def of(
        self,
        states: Mapping[str, str | None],
        compute: Callable[[str], bytes],
        progress: Callable[[int], None] = lambda done: None,
    ) -> list[bytes]:
        """The digests of files, computed where they are not known.

        `states` has of each name what changes with its content, such as path, size and time; None
        of what is computed every time. `progress` is called with how many are done, also while
        another process works on them.

        Raises:
            OSError: there is something to write, and it cannot be.
        """
        found = self._unchanged(states)
        progress(len(found))
        if len(found) < len(states):
            # Of several processes that start at once, one reads the files.
            with locked(self.path.with_suffix(".lock"), lambda: progress(len(found))):
                found = self._unchanged(states)
                self._compute(states, found, compute, progress)
        return [found[name] for name in states]

    def _unchanged(self, states: Mapping[str, str | None]) -> dict[str, bytes]:
        kept = self._read()
        return {
            name: kept[name][1]
            for name, state in states.items()
            if state is not None and name in kept and kept[name][0] == state
        }

    def _compute(
        self,
        states: Mapping[str, str | None],
        found: dict[str, bytes],
        compute: Callable[[str], bytes],
        progress: Callable[[int], None],
    ) -> None:
        """Add what is missing to `found`."""
        new: dict[str, tuple[str, bytes]] = {}
        unknown = iter([name for name in states if name not in found])
        try:
            with ThreadPoolExecutor() as readers:
                while chunk := list(islice(unknown, READ_AT_ONCE)):
                    for name, digest in zip(chunk, readers.map(compute, chunk), strict=True):
                        found[name] = digest
                        if (state := states[name]) is not None:
                            new[name] = state, digest
                    progress(len(found))
        finally:  # what was read before an interruption need not be read again
            if new:
                self._write(self._read() | new)

    def _read(self) -> dict[str, tuple[str, bytes]]:
        try:
            table = map_arrow(self.path)
            table.validate()
            names, states, digests = (table[name].to_pylist() for name in _SCHEMA.names)
        # Absent, cut short, or of another program: all the same, files are read anew.
        except (OSError, pa.ArrowException, KeyError):
            return {}
        return dict(zip(names, zip(states, digests, strict=True), strict=True))

    def _write(self, kept: Mapping[str, tuple[str, bytes]]) -> None:
        states, digests = zip(*kept.values(), strict=True)
        batch = pa.record_batch([list(kept), list(states), list(digests)], schema=_SCHEMA)
        sink = pa.BufferOutputStream()
        write_arrow(sink, [batch], _SCHEMA)
        write_whole(self.path, sink.getvalue().to_pybytes())
