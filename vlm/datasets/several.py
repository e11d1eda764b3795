"""Several images of a question: one text in a table's `image`, with their names in their order.

So a table, a batch and a report have one key for what a question is about, and a question about
one image is what it always was: the name of the image.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

SEPARATOR = "\0"
"""Between two names: the one character that no path has."""


def as_one(images: Sequence[str]) -> str:
    """The text that stands for images in this order; of one image its name."""
    return SEPARATOR.join(images)


def images_of(image: str) -> list[str]:
    """The names in a table's `image`.

    >>> images_of(as_one(["left.png", "right.png"])), images_of("left.png")
    (['left.png', 'right.png'], ['left.png'])
    """
    return image.split(SEPARATOR)


def shown(image: str) -> str:
    """A table's `image` for people: its names, with commas between them."""
    return ", ".join(images_of(image))


def as_data(image: str) -> str | list[str]:
    """A table's `image` as a file of data has it: a name, or a list of names."""
    images = images_of(image)
    return image if len(images) == 1 else images


def different_images(images: pa.ChunkedArray) -> pa.Array:
    """The different names in a column `image`, in the order of their first place."""
    unique = images.unique()
    if most_images(unique) == 1:
        return unique
    return pc.list_flatten(pc.split_pattern(unique, SEPARATOR)).unique()


def most_images(images: pa.Array | pa.ChunkedArray) -> int:
    """The most images of a question, at least 1."""
    return 1 + (pc.max(pc.count_substring(images, SEPARATOR)).as_py() or 0)


def first_images(images: pa.Array) -> pa.Array:
    """The first image of each list in an array of a column `image`."""
    return pc.list_element(pc.split_pattern(images, SEPARATOR, max_splits=1), 0)
