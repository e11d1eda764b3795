"""Images of a data set, written to tar shards in WebDataset's layout."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock, Timeout

from vlm.core.files import PART, whole_file
from vlm.data.shards.index import members, write_index
from vlm.datasets.base import Dataset, Split
from vlm.datasets.errors import DataError
from vlm.datasets.readers.official import MissingFile
from vlm.datasets.several import different_images

SPLITS: tuple[Split, ...] = ("train", "validation", "test", "predict")
_SHARD = re.compile(r"shard-(\d+)\.tar")
_PLACES = pa.schema(
    {"name": pa.string(), "shard": pa.int32(), "offset": pa.int64(), "size": pa.int64()}
)


def images_of(dataset: Dataset, left_out: Callable[[str], None] = lambda reason: None) -> pa.Array:
    """The different images of all splits, in the order of the questions; `left_out` is called for a
    split other than train whose questions are not there.

    Raises:
        DataError: questions that cannot be read, or images that are inside the data file.
    """
    found = []
    for split in SPLITS:
        try:
            if dataset.has(split):
                found.append(different_images(dataset.table(split)["image"]))
        except MissingFile as error:
            if split == "train":
                raise
            left_out(f"{split}: {error}")
    images = pa.chunked_array(found, pa.string()).unique()
    first = images[0].as_py()
    if dataset.image_source is not None and isinstance(dataset.image_source(first), bytes):
        raise DataError(
            f"{first}: the images are inside the data file, from where they are read with the "
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
    """Write images to shards, and the index of all shards in the folder.

    An image's name is its path from `folder_of`; a name that a shard of the folder has already is
    not written again, so that an interrupted writing goes on, but read and compared byte by byte,
    if its file is still there. A shard gets its name (`*.tar`) when it is whole and on the disk,
    and no further image once it has `shard_bytes`.

    Returns:
        How many images were written now.

    Raises:
        DataError: an image that is not there, a shard that is broken, or has another image of
            the same name; no space, another process that writes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # The file stays: where it can be deleted while it is open, two might each lock one of its name.
    try:
        with FileLock(folder / ".writing.lock", timeout=0):
            return _write_missing(images, folder, shard_bytes, progress)
    except Timeout:
        raise DataError(
            f"{folder}: another `vlm shard` is writing there; wait for it to end."
        ) from None


def _write_missing(
    images: pa.Array, folder: Path, shard_bytes: int, progress: Callable[[int], None]
) -> int:
    root = len(folder_of(images))
    for left in folder.glob(f"*{PART}"):  # of a process that was killed
        left.unlink()
    shards = list(folder.glob("*.tar"))
    there = pa.concat_tables(
        [_PLACES.empty_table(), *(_places(number, path) for number, path in enumerate(shards))]
    ).combine_chunks()
    names = pc.utf8_slice_codeunits(images, root)
    rows = pc.index_in(names, value_set=there["name"])
    kept = pc.is_valid(rows)
    places = there.take(rows.filter(kept)).append_column("image", images.filter(kept))
    _check_same(places, shards, progress)
    missing, names = images.filter(pc.invert(kept)), names.filter(pc.invert(kept))
    done = len(images) - len(missing)
    matches = [_SHARD.fullmatch(path.name) for path in shards]
    number = max((int(match[1]) for match in matches if match), default=-1) + 1
    row = 0
    while row < len(missing):
        path = folder / f"shard-{number:06d}.tar"
        number += 1
        try:
            with (
                whole_file(path) as file,
                tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar,
            ):
                while row < len(missing) and file.tell() < shard_bytes:
                    _add(tar, missing[row].as_py(), names[row].as_py())
                    row += 1
                    progress(done + row)
        except OSError as error:
            raise DataError(
                f"{path}: could not be written ({error}). Run it again to continue."
            ) from None
    write_index(folder)
    return row


def _places(number: int, shard: Path) -> pa.Table:
    places = [
        {"name": m.name, "shard": number, "offset": m.offset_data, "size": m.size}
        for m in members(shard)
    ]
    return pa.Table.from_pylist(places, _PLACES)


def _check_same(places: pa.Table, shards: list[Path], progress: Callable[[int], None]) -> None:
    """Check that what is not written again is what is there: two data sets may have images of one
    name, even of one size, of which training would read the wrong ones."""
    done = 0
    for number, shard in enumerate(shards):
        inside = places.filter(pc.equal(places["shard"], number)).sort_by("offset")
        with shard.open("rb") as file:
            for place in inside.to_pylist():
                file.seek(place["offset"])
                _check_one(place["image"], file.read(place["size"]), shard)
                done += 1
                progress(done)


def _check_one(image: str, kept: bytes, shard: Path) -> None:
    try:
        content = Path(image).read_bytes()
    except FileNotFoundError:  # it may be in the shards alone by now
        return
    except OSError as error:
        raise _unreadable(image, error) from None
    if content != kept:
        raise DataError(
            f"{image}: its {len(content):,} bytes differ from the {len(kept):,} bytes of the "
            f"image of this name in {shard}. Write another data set, or changed images, to "
            "another folder."
        )


def _add(tar: tarfile.TarFile, image: str, name: str) -> None:
    try:
        content = Path(image).read_bytes()
    except OSError as error:
        raise _unreadable(image, error) from None
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, BytesIO(content))


def _unreadable(image: str, error: OSError) -> DataError:
    return DataError(
        f"{image}: {error.strerror}. `vlm check-data` lists all images that are missing."
    )
