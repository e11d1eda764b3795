"""Pictures of a data set, written to tar shards in WebDataset's layout."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock, Timeout

from vlm.data.datamodule import Split, VQADataModule
from vlm.data.problems import DataError
from vlm.data.sets.official import MissingFile
from vlm.data.shard_index import members, write_index

SPLITS: tuple[Split, ...] = ("train", "validation", "test", "predict")
_SHARD = re.compile(r"shard-(\d+)\.tar")


def images_of(
    data: VQADataModule, left_out: Callable[[str], None] = lambda reason: None
) -> pa.Array:
    """The different images of all splits, in the order of the questions.

    Args:
        data: the data set.
        left_out: told of a split other than train whose questions are not there.

    Raises:
        DataError: questions that cannot be read, or pictures that are inside the data file.
    """
    if data.pictures.regions is not None or data.pictures.shards is not None:
        raise DataError(
            "data.pictures.regions and data.pictures.shards: leave both out; pictures are to be "
            "written."
        )
    found = []
    for split in SPLITS:
        try:
            if data.has(split):
                found.append(data.table(split)["image"].unique())
        except MissingFile as error:
            if split == "train":
                raise
            left_out(f"{split}: {error}")
    images = pa.chunked_array(found, pa.string()).unique()
    first = images[0].as_py()
    if data.picture_source is not None and isinstance(data.picture_source(first), bytes):
        raise DataError(
            f"{first}: the pictures are inside the data file, from where they are read with the "
            f"questions. Write them to files first, and their paths into the data."
        )
    return images


def folder_of(images: pa.Array) -> str:
    """What all paths begin with, up to a "/": the folder that names in shards start from."""
    ends = pc.min_max(images).as_py()
    # Whatever stands between the first and the last in alphabetical order begins as both do.
    common = os.path.commonprefix([*ends.values()])  # noqa: RUF071  cut at a "/" below
    return common[: common.rfind("/") + 1]


def write_shards(
    images: pa.Array,
    folder: Path,
    shard_bytes: int,
    progress: Callable[[int], None] = lambda done: None,
) -> int:
    """Write pictures to shards, and the index of all shards in the folder.

    A picture's name is its path from `folder_of`; a name that a shard of the folder has already is
    not written again, so that an interrupted writing goes on. A shard gets its name (`*.tar`) when
    it is whole and on the disk. One process writes to a folder at a time.

    Args:
        images: different paths.
        folder: made if it is not there.
        shard_bytes: a shard that has so many gets no further picture.
        progress: told how many pictures are there.

    Returns:
        How many pictures were written now.

    Raises:
        DataError: a picture that is not there, a shard that is broken, or has another picture of
            the same name; no space, another process that writes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / ".writing.lock"
    lock = FileLock(mark, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise DataError(
            f"{folder}: another `vlm shard` is writing there; wait for its end."
        ) from None
    try:
        return _write_missing(images, folder, shard_bytes, progress)
    finally:
        mark.unlink(missing_ok=True)  # while it is ours
        lock.release()


def _write_missing(
    images: pa.Array, folder: Path, shard_bytes: int, progress: Callable[[int], None]
) -> int:
    root = len(folder_of(images))
    schema = pa.schema({"name": pa.string(), "size": pa.int64()})
    found = [
        pa.Table.from_pylist([{"name": m.name, "size": m.size} for m in members(path)], schema)
        for path in folder.glob("*.tar")
    ]
    there = pa.concat_tables([schema.empty_table(), *found]).combine_chunks()
    names = pc.utf8_slice_codeunits(images, root)
    rows = pc.index_in(names, value_set=there["name"])
    kept = pc.is_valid(rows)
    _check_same(images.filter(kept), there["size"].take(rows.filter(kept)), folder)
    wanted, names = images.filter(pc.invert(kept)), names.filter(pc.invert(kept))
    done = len(images) - len(wanted)
    matches = [_SHARD.fullmatch(path.name) for path in folder.glob("*.tar")]
    number = max((int(match[1]) for match in matches if match), default=-1) + 1
    row = 0
    while row < len(wanted):
        path = folder / f"shard-{number:06d}.tar"
        number += 1
        new = path.with_suffix(".tar.part")
        try:
            with new.open("wb") as file:
                with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                    while row < len(wanted) and file.tell() < shard_bytes:
                        _add(tar, wanted[row].as_py(), names[row].as_py())
                        row += 1
                        progress(done + row)
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, path)
        except OSError as error:
            raise DataError(
                f"{path}: could not be written ({error}). Run it again to go on."
            ) from None
        finally:
            new.unlink(missing_ok=True)
    write_index(folder)
    return row


def _check_same(images: pa.Array, sizes: pa.Array, folder: Path) -> None:
    """Check that what is not written again is what is there: two data sets may have pictures of one
    name, of which training would read the wrong ones."""
    for image, size in zip(images, sizes, strict=True):
        path, written = image.as_py(), size.as_py()
        with suppress(FileNotFoundError):  # it may be in the shards alone by now
            if (own := os.path.getsize(path)) != written:
                raise DataError(
                    f"{path}: has {own:,} bytes, and the picture of its name in the shards of "
                    f"{folder} has {written:,}; wanted the same. Write another data set, or "
                    f"pictures that have changed, to another folder."
                )


def _add(tar: tarfile.TarFile, image: str, name: str) -> None:
    try:
        picture = open(image, "rb")  # noqa: SIM115  closed below; errors of writing are others
    except OSError as error:
        raise DataError(
            f"{image}: {error.strerror}. `vlm check-data` lists all pictures that are missing."
        ) from None
    with picture:
        info = tarfile.TarInfo(name)
        info.size = os.fstat(picture.fileno()).st_size
        tar.addfile(info, picture)
