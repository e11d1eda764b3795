"""Images that cannot be read: found, and left out with their questions where the user allows it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.utilities import rank_zero_warn

from vlm.core.terminal import new_progress
from vlm.data.images.sources import OpenImages
from vlm.datasets.errors import DataError
from vlm.datasets.several import different_images, images_of, most_images
from vlm.datasets.table import image_groups, stream, with_rows
from vlm.image.load import ImageError
from vlm.image.rgb import WhiteLevel

READ_AT_ONCE = 256
"""Images handed to the readers at a time."""


def unreadable(
    files: OpenImages,
    table: pa.Table,
    rows: np.ndarray,
    name: str,
    white_level: WhiteLevel = None,
) -> Iterator[tuple[dict[str, Any], ImageError]]:
    """Read the images of some rows of questions, and give the row of each broken one, and why; of a
    row with several, `image` is the broken one."""

    def read(image: str) -> ImageError | None:
        try:
            files.read(image, white_level)
        except ImageError as error:
            return error
        return None

    chosen = np.zeros(len(table), bool)
    chosen[rows] = True
    content = zip(stream(table, "image", "place", "id"), chosen, strict=True)
    expected: Iterator[tuple[str, str | None, str]] = (
        (image, place, number)
        for (images, place, number), take in content
        for image in (images_of(images) if take else ())
    )
    if most_images(table["image"]) > 1:  # lists may share images, and each is read once
        first: dict[str, tuple[str, str | None, str]] = {}
        for one in expected:
            first.setdefault(one[0], one)
        expected = iter(first.values())
    with new_progress() as progress, ThreadPoolExecutor(os.cpu_count()) as readers:
        task = progress.add_task(f"Reading {name} images", total=len(rows))
        while chunk := list(islice(expected, READ_AT_ONCE)):
            errors = readers.map(read, (image for image, _, _ in chunk))
            for (image, place, number), error in zip(chunk, errors, strict=True):
                if error is not None:
                    yield {"image": image, "place": place, "id": number}, error
            progress.advance(task, len(chunk))


def without_unreadable(
    table: pa.Table,
    files: OpenImages,
    split: str,
    at_most: int,
    white_level: WhiteLevel = None,
) -> pa.Table:
    """The questions whose images can be read; each image is read once to see that.

    Raises:
        DataError: more than `at_most` images cannot be read.
    """
    first = np.unique(image_groups(table), return_index=True)[1]
    broken = list(islice(unreadable(files, table, first, split, white_level), at_most + 1))
    if not broken:
        return table
    reason = f"Question {broken[0][0]['id']!r}: {broken[0][1]}"
    if len(broken) > at_most:
        raise DataError(
            f"data.images.skip_unreadable: got {at_most}, but more {split} images than that "
            f"cannot be read. `vlm check-data` lists them all. The first: {reason}"
        )
    images = {row["image"] for row, _ in broken}
    names = table["image"].unique()
    lists = [name for name in names.to_pylist() if not images.isdisjoint(images_of(name))]
    whole = pc.invert(pc.is_in(table["image"], value_set=pa.array(lists))).to_numpy()
    every = different_images(table["image"])
    rank_zero_warn(
        f"Left out {len(broken):,} of {len(every):,} {split} images as unreadable, with "
        f"{int((~whole).sum()):,} of {len(table):,} questions. The first: {reason}"
    )
    return with_rows(table, whole)


def check_alike(table: pa.Table, split: str, strategy: Strategy) -> None:
    """Check that all processes could read the same images: their batches must fit together.

    Raises:
        DataError: in all processes, if the table of one has other questions than the first's.
    """
    own = table["id"].to_pylist()
    first = strategy.broadcast(own)
    # All end by themselves: one that went on would wait for those that did not.
    if not strategy.reduce_boolean_decision(first == own, all=True):
        others = "others in another one" if first == own else f"{len(own):,} or other ones here"
        raise DataError(
            f"data.images.skip_unreadable: got {len(first):,} {split} questions whose images "
            f"the first process could read, and {others}; expected the same. Make sure that all "
            "machines have the same images."
        )
