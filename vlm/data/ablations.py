"""Data with one side taken away: what a model reaches without seeing, or without being asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
from torch import Tensor

from vlm.core.features import Features
from vlm.datasets.table import image_groups, with_column
from vlm.image.regions import RegionTransform
from vlm.image.transform import ImageTransform

Control = Literal["question_only", "image_only", "image_shuffled", "no_image", "no_question"]
"""question_only: every image is the same grey. image_only: every question is the same word.
image_shuffled: each image's questions are asked about another image of the split. no_image,
no_question: that side is left out, and the fusion gets an empty mask in its place."""
SIDES: tuple[Control, ...] = ("no_image", "no_question")
"""Those that leave a side out."""

SAME_QUESTION = "unknown"
"""One word, known or not, and not an empty question: a fusion that looks at the image through
the words would see nothing at all with none."""


def controlled(table: pa.Table, control: Control | None, seed: int) -> pa.Table:
    """The questions of a split as the model sees them; ids and answers stay."""
    if control == "image_only":
        questions = pa.array([SAME_QUESTION] * len(table), pa.string())
        return with_column(table, "question", questions)
    if control == "image_shuffled":
        return with_column(table, "image", pa.array(_other_images(table, seed), pa.string()))
    return table


def _other_images(table: pa.Table, seed: int) -> list[str]:
    """Another image for each question, the same for all questions about one image."""
    groups = image_groups(table)
    paths = table["image"].to_pylist()
    path_of = {int(group): path for group, path in zip(groups, paths, strict=True)}
    order = np.random.default_rng(seed).permutation(len(path_of))
    # One cycle through all images, so that none of several keeps its own.
    other = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))
    return [path_of[other[int(group)]] for group in groups]


class BlankImages:
    """Every image is the same and shows nothing; none is read."""

    def __init__(self, transform: ImageTransform | RegionTransform) -> None:
        self.transform = transform

    def read(self, paths: Sequence[str], questions: Sequence[str]) -> Tensor | Features:
        return self.transform.blank(len(paths))
