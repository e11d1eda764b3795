"""SHAPES: compositions of shapes, colours and places, asked in a formal language.

Andreas, Rohrbach, Darrell and Klein, "Neural Module Networks", CVPR 2016
(https://github.com/jacobandreas/nmn2, Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from vlm.datasets.base import Split
from vlm.datasets.generated.base import GeneratedDataset, Picture
from vlm.datasets.generated.drawing import Draws, stamp

COLORS, FORMS = ("red", "green", "blue"), ("circle", "square", "triangle")
STEPS = {"above": (-1, 0), "below": (1, 0), "left_of": (0, -1), "right_of": (0, 1)}
SIDE, CELL, FINE = 3, 10, 8
"""Cells a side, pixels a cell's side, and parts of a pixel's side in which shapes are drawn."""
Cells = dict[tuple[int, int], tuple[str, str]]
"""Colour and shape of what lies in row and column."""


class SHAPES(GeneratedDataset):
    """SHAPES: is something that is red above a circle? No question of test occurs in training.

    There are 13,568 training questions of 212 forms, and 1,024 questions of 16 forms each for
    validation and test. Each is about an image of 30 x 30 pixels with up to nine shapes. Questions
    keep the set's language: "is red above circle" is its `(is red (above circle))` and asks whether
    a red object lies in the cell directly above that of a circle. The order of words matters, so a
    bag of words is not enough. Validation and test use the official images. The images of the large
    training split are generated from its questions and answers, in the style of the others. The
    report has a line for each number of relations, 0 to 2. No size is checked: generated content
    has a digest.

    Args:
        root: folder for the generated files; None for a folder in the cache (`VLM_CACHE`).
        validation_share: not used, because the set has a validation split.
        vocabulary: rules for the words and answers that enter the vocabularies.
        seed: seed of the training images; digests are published for 0.

    Example:
        >>> data = vlm.datasets.SHAPES()
        >>> data.read("test").num_rows, data.read("test")["question"][0].as_py()
        (1024, 'is green right of blue')
    """

    def pictures(self, split: Split) -> Iterator[Picture] | None:
        return self._pictures(split) if split in ("train", "validation", "test") else None

    def _pictures(self, split: Split) -> Iterator[Picture]:
        draws = Draws(f"{self.edition} {split}")
        with np.load(Path(__file__).with_name("shapes.npz")) as content:
            queries, answers = (
                content[f"{split}_{name}"].tolist() for name in ("queries", "answers")
            )
            official = content.get(f"{split}_pixels")
        for number, (query, answer) in enumerate(zip(queries, answers, strict=True)):
            pixels = _drawn(draws, query, answer) if official is None else official[number]
            yield Picture(pixels, [_row(query, answer)])


def _row(query: str, answer: str) -> dict[str, Any]:
    words = query.replace("(", "").replace(")", "").replace("_", " ")
    relations = query.count("(") - 1
    return {"question": words, "answer": answer, "answer_type": f"{relations} relations"}


def holds(query: str, cells: Cells) -> bool:
    """Whether `(is A B)` is true: a cell is both, where `(above C)` is any next above a C."""
    _, first, *steps, last = query.replace("(", "").replace(")", "").split()
    found = {cell for cell, names in cells.items() if last in names}
    for step in reversed(steps):
        rows, columns = STEPS[step]
        inside = {(row + rows, column + columns) for row, column in found}
        found = {cell for cell in inside if set(cell) <= set(range(SIDE))}
    return any(first in cells.get(cell, ()) for cell in found)


@cache
def _covered(form: str, half: int) -> np.ndarray:
    """How many of a pixel's parts a shape in a cell's centre covers: (10, 10) in [0, 64]."""
    mask = np.zeros((CELL * FINE, CELL * FINE), np.int64)
    inside = slice(CELL * FINE // 2 - half, CELL * FINE // 2 + half + 1)
    mask[inside, inside] = stamp(form, half)
    return mask.reshape(CELL, FINE, CELL, FINE).sum((1, 3))


def _drawn(draws: Draws, query: str, answer: str) -> np.ndarray:
    """A picture (30, 30, 3) uint8 of which the answer is right."""
    while True:
        cells: Cells = {
            (row, column): (draws.one(COLORS), draws.one(FORMS))
            for row in range(SIDE)
            for column in range(SIDE)
            if draws.below(5)  # four of five cells are filled, as in the official pictures
        }
        if holds(query, cells) == (answer == "true"):
            break
    pixels = np.zeros((SIDE * CELL, SIDE * CELL, 3), np.uint8)
    for (row, column), (color, form) in cells.items():
        covered = _covered(form, 18 + draws.below(15))
        rgb = [max(0, draws.below(103) - 51) for _ in COLORS]
        rgb[COLORS.index(color)] = min(255, 204 + draws.below(103))
        cell = covered[..., None] * rgb // FINE**2
        pixels[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] = cell
    return pixels
