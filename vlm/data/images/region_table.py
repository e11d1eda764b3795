"""The bottom-up-attention TSV: a line an image, found by its id without reading the others."""

from __future__ import annotations

import base64
import binascii
import os
import warnings
import zipfile
from array import array
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vlm.core.files import whole_file
from vlm.core.terminal import new_progress
from vlm.core.validation import counted
from vlm.datasets.errors import DataError
from vlm.image.detections import Regions, checked
from vlm.image.load import ImageError

FIELDS = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")
MAX_LINE = 1 << 26
"""Bytes. An image with 100 regions of 2048 features takes about a million."""


class RegionTable:
    """A file of https://github.com/peteanderson80/bottom-up-attention, or one in its format.

    Six fields between tabs and no header: image_id, image_w, image_h, num_boxes, then boxes
    (num_boxes, 4) in pixels and features (num_boxes, D), both float32 in base64. The file is read
    through once, to note where each line starts; that is kept beside it (`.index.npz`), where its
    folder can be written to. Memory holds the ids and starts alone.

    Raises:
        DataError: a line that is cut short or in another format, with its number and byte.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._index = _index(path)

    def find(self, names: list[str]) -> int | None:
        """The place of an image that goes by one of these names; None if it is not here."""
        ids = self._index.ids
        for name in names:
            place = int(np.searchsorted(ids, name))
            if place < len(ids) and ids[place] == name:
                return place
        return None

    def read(self, place: int) -> Regions:
        """The regions at a place that `find` gave.

        Raises:
            ImageError: naming file, line and image.
        """
        name = str(self._index.ids[place])
        where = f"{self.path}, line {self._index.lines[place]} (image {name})"
        # Opened anew each time: loader workers that shared a handle would share its position.
        with self.path.open("rb") as file:
            file.seek(int(self._index.starts[place]))
            try:
                line = _parse(file.readline(MAX_LINE))
                if line.image != name:
                    raise ValueError(
                        f"got image {line.image!r}; the file has changed since it was indexed"
                    )
                boxes, features = (
                    np.frombuffer(base64.b64decode(field, validate=True), "<f4")
                    for field in (line.boxes, line.features)
                )
            except (ValueError, binascii.Error) as error:
                raise ImageError(f"{where}: {error}. Get the file again.") from None
        return checked(
            features.reshape(line.regions, -1),
            boxes.reshape(line.regions, 4),
            line.width,
            line.height,
            where,
        )


class _Line(NamedTuple):
    image: str
    width: int
    height: int
    regions: int
    boxes: bytes
    features: bytes
    dim: int


class _Index(NamedTuple):
    """Sorted by id: the ids as text, the byte at which each line starts, and its number."""

    ids: np.ndarray
    starts: np.ndarray
    lines: np.ndarray


def _parse(content: bytes) -> _Line:
    fields = content.rstrip(b"\r\n").split(b"\t")
    if len(fields) != len(FIELDS):
        raise ValueError(
            f"got {counted(len(fields), 'field')} between tabs; expected {len(FIELDS)}: "
            f"{', '.join(FIELDS)}"
        )
    try:
        image = fields[0].decode()
        width, height, count = (int(field) for field in fields[1:4])
    except ValueError:
        raise ValueError(
            f"got {[field[:20] for field in fields[:4]]}; expected an id and the whole numbers "
            f"{', '.join(FIELDS[1:4])}"
        ) from None
    if count < 1:
        raise ValueError(f"num_boxes: got {count}; expected one region at least")
    if _size(fields[4]) != 16 * count:
        raise ValueError(f"boxes: expected {count} x 4 numbers of 4 bytes in base64")
    dim, rest = divmod(_size(fields[5]), 4 * count)
    if rest or dim < 1:
        raise ValueError(
            f"features: got {len(fields[5]):,} letters of base64, which are no whole number of "
            f"features for {counted(count, 'region')}"
        )
    return _Line(image, width, height, count, fields[4], fields[5], dim)


def _size(text: bytes) -> int:
    """Bytes that base64 text stands for; an odd number where it is none."""
    return -1 if len(text) % 4 else len(text) // 4 * 3 - text[-2:].count(b"=")


def _index(path: Path) -> _Index:
    kept = path.with_name(f"{path.name}.index.npz")
    now = os.stat(path)
    stamp = np.array([now.st_size, now.st_mtime_ns])
    # Anything wrong with it, and it is made again.
    damaged = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
    with suppress(*damaged), open(kept, "rb") as file:
        content = np.load(file, allow_pickle=False)
        if np.array_equal(content["stamp"], stamp):
            return _Index(content["ids"], content["starts"], content["lines"])
    index = _scan(path, now.st_size)
    # A folder may be read-only, and other processes of the run make the file too.
    with suppress(OSError), whole_file(kept) as file:
        np.savez(file, stamp=stamp, **index._asdict())
    return index


def _scan(path: Path, size: int) -> _Index:
    ids: list[str] = []
    starts, start, dim = array("q"), 0, 0
    with path.open("rb") as file, new_progress() as progress:
        task = progress.add_task(f"Indexing {path.name}", total=size)
        while content := file.readline(MAX_LINE):
            try:
                line = _parse(content)
                dim = dim or line.dim
                if line.dim != dim:
                    raise ValueError(f"features {line.dim} wide; expected {dim} as in line 1")
            except ValueError as error:
                raise DataError(
                    f"{path}, line {len(ids) + 1}, byte {start}: {error}. If the file was cut "
                    f"short, get it again."
                ) from None
            ids.append(line.image)
            starts.append(start)
            start += len(content)
            progress.update(task, completed=start)
    if not ids:
        raise DataError(f"{path}: the file is empty.")
    unique, first = np.unique(ids, return_index=True)  # the first of those that are the same
    if repeated := len(ids) - len(unique):
        again = np.delete(np.arange(len(ids)), first)
        warnings.warn(
            f"{path}: left out {counted(repeated, 'line')} with the id of an earlier one (first "
            f"line {again[0] + 1}, image {ids[again[0]]}).",
            stacklevel=2,
        )
    return _Index(unique, np.asarray(starts)[first], first + 1)
