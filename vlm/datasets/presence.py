"""What a data set knows to be in its images, and how it asks for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

Name = tuple[str, ...]
"""What an object is called: the words that fill the form of the question."""
Boxes = Sequence[tuple[float, float, float, float]]
"""x0, y0, x1, y1 of each object of a name, in shares of the image."""


class Presence(NamedTuple):
    """Of a split of a data set.

    Attributes:
        question: form of the question whether an object is there, with a {} for each word.
        yes: its answer where the object is there.
        no: its answer where it is not.
        objects: the objects of an image, which is named as in the table.
    """

    question: str
    yes: str
    no: str
    objects: Callable[[str], Mapping[Name, Boxes]]
