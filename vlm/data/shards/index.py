"""Where each image lies in a folder of tar shards: an Arrow table beside them."""

from __future__ import annotations

import json
import re
import tarfile
import zlib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vlm.core.files import sha256, whole_file
from vlm.datasets.arrow import map_arrow, write_arrow
from vlm.datasets.errors import DataError

INDEX = "images.arrow"
"""Its name, beside the shards."""
_KINDS = {
    "name": pa.large_string(),
    "shard": pa.int32(),
    "offset": pa.int64(),
    "size": pa.int64(),
    "crc": pa.uint32(),
}
_SCHEMA = pa.schema([pa.field(name, kind, nullable=False) for name, kind in _KINDS.items()])
_KEY = b"vlm"


class Shard(NamedTuple):
    """A tar file: its name, its size in bytes, and its SHA-256 in hexadecimal."""

    name: str
    size: int
    sha256: str


class Place(NamedTuple):
    """Where an image lies: the number of its shard, its position from the start of the file and its
    length in bytes, and the CRC-32 of its content."""

    shard: int
    offset: int
    size: int
    crc: int


class ShardIndex:
    """The index of a folder, mapped: memory holds what is in use, once for all processes.

    Raises:
        DataError: there is none, or it is no whole index.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            table = map_arrow(path)
            table.validate(full=True)
            content = json.loads(table.schema.metadata[_KEY])
            self.shards = [Shard(*shard) for shard in content["shards"]]
            _check(table, self.shards)
            # It was written in one piece, so that looking something up finds it at once.
            (batch,) = table.to_batches()
            self._names, *self._places = batch.columns
        except FileNotFoundError:
            raise DataError(
                f"{path}: there is no such file; expected a folder of shards that `vlm shard` "
                f"wrote to the end."
            ) from None
        except Exception as error:  # its JSON may hold anything, of any depth
            raise DataError(
                f"{path}: not an index of shards, or cut short ({error}). Copy it again, or run "
                "`vlm shard` again, which keeps existing shards."
            ) from None

    def __len__(self) -> int:
        return len(self._names)

    def __getstate__(self) -> Path:
        return self.path

    def __setstate__(self, path: Path) -> None:
        self.__init__(path)  # type: ignore[misc]  # mapped anew, and not copied

    def find(self, name: str) -> Place | None:
        """Where an image lies; None if it is not here."""
        # Arrow sorts by bytes of UTF-8, whose order is that of Python's texts.
        row = bisect_left(range(len(self)), name, key=lambda row: self._names[row].as_py())
        if row == len(self) or self._names[row].as_py() != name:
            return None
        return Place(*(column[row].as_py() for column in self._places))

    def shards_of(self, names: pa.Array) -> pa.Array:
        """The number of each name's shard; null for what is not here."""
        rows = pc.index_in(names.cast(pa.large_string()), value_set=self._names)
        return self._places[0].take(rows)


def _check(table: pa.Table, shards: Sequence[Shard]) -> None:
    """Check that an index, which may come from strangers, leads to its own shards and no further.

    Raises:
        ValueError: names of files elsewhere, or places that no shard has.
    """
    if not table.schema.equals(_SCHEMA):
        raise ValueError("it has other columns")
    # Nothing in the file forbids them: a schema without nulls is only a claim.
    if any(column.null_count for column in table.columns):
        raise ValueError("an image has no name or no place")
    for shard in shards:
        # They become names of files, here and in the cache.
        plain = re.fullmatch(r"[^/\\\0]+\.tar", shard.name)
        if not plain or not re.fullmatch("[0-9a-f]{64}", shard.sha256):
            raise ValueError(f"a shard is called {shard.name!r:.80} with {shard.sha256!r:.80}")
        shard.name.encode()  # or no file system and no terminal takes it
        if type(shard.size) is not int or not 0 <= shard.size < 2**63:
            raise ValueError(f"a shard has {shard.size!r:.80} bytes")
    number, offset, size = (table[name].to_numpy() for name in ("shard", "offset", "size"))
    if ((number < 0) | (number >= len(shards)) | (offset < 0) | (size < 0)).any():
        raise ValueError("an image is in no shard")
    ends = np.array([shard.size for shard in shards], np.int64)
    if (size > ends[number] - offset).any():
        raise ValueError("an image ends beyond its shard")


def members(path: Path) -> Iterator[tarfile.TarInfo]:
    """The files in a tar, of which `offset_data` and `size` say where they lie.

    Raises:
        DataError: it is no tar, or cut short, or a name in it is no text.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.isfile():
                    member.name.encode()
                    yield member
                tar.members.clear()  # type: ignore[attr-defined]  # or all stay in memory
    except (tarfile.TarError, EOFError) as error:
        raise DataError(
            f"{path}: not a complete tar file ({error}). Delete it and run `vlm shard` again."
        ) from None
    except UnicodeEncodeError:
        raise DataError(
            f"{path}: the name of the file {member.name!a:.80} in it is not UTF-8. Rename the file "
            f"and write the tar again."
        ) from None


def write_index(folder: Path) -> None:
    """Read every shard of a folder (`*.tar`) and write the index of all; at once or not at all.

    Raises:
        DataError: a shard that cannot be read, or two images of one name.
    """
    shards, batches = [], []
    for number, path in enumerate(sorted(folder.glob("*.tar"))):
        with path.open("rb") as file:
            rows = []
            for member in members(path):
                file.seek(member.offset_data)
                crc = zlib.crc32(file.read(member.size))
                place = Place(number, member.offset_data, member.size, crc)
                rows.append({"name": member.name, **place._asdict()})
        shards.append(Shard(path.name, path.stat().st_size, sha256(path)))
        batches.append(pa.RecordBatch.from_pylist(rows, _SCHEMA))
    table = pa.Table.from_batches(batches, _SCHEMA).sort_by("name").combine_chunks()
    _check_unique(table, shards)
    schema = _SCHEMA.with_metadata({_KEY: json.dumps({"shards": shards})})
    with whole_file(folder / INDEX) as file:
        write_arrow(file, table.to_batches(), schema)


def _check_unique(table: pa.Table, shards: Sequence[Shard]) -> None:
    names = table["name"]
    same = pc.equal(names.slice(1), names.slice(0, max(0, len(names) - 1)))
    again = np.flatnonzero(same.to_numpy())
    if len(again):
        first = int(again[0])
        where = [shards[table["shard"][row].as_py()].name for row in (first, first + 1)]
        raise DataError(
            f"{' and '.join(dict.fromkeys(where))}: {names[first].as_py()!r} is there more than "
            f"once; expected different names. Keep shards of different runs of `vlm shard` apart."
        )
