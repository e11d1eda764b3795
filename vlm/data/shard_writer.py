"""Pictures of a data set, written to tar shards in WebDataset's layout."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

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
    it is whole and on the disk.

    Args:
        images: different paths.
        folder: made if it is not there.
        shard_bytes: a shard that has so many gets no further picture.
        progress: told how many pictures are there.

    Returns:
        How many pictures were written now.

    Raises:
        DataError: a picture that is not there, a shard that is broken, no space.
    """
    folder.mkdir(parents=True, exist_ok=True)
    root = len(folder_of(images))
    there = [
        pa.array([m.name for m in members(path)], pa.string()) for path in folder.glob("*.tar")
    ]
    names = pc.utf8_slice_codeunits(images, root)
    kept = pc.is_in(names, value_set=pa.chunked_array(there, pa.string()).combine_chunks())
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
