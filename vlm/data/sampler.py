"""The order of questions: batches of whole images, a pure function of seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from vlm.fusion.base import check_positive


class BatchRows(NamedTuple):
    """One process's share of a global batch.

    Attributes:
        rows: of the question table.
        total: number of questions in the global batch.
    """

    rows: np.ndarray
    total: int


class ImageGroupSampler(Sampler[BatchRows]):
    """Batches that hold the questions of so many images, so that each is encoded once.

    Args:
        groups: (Q,) the image of each question, as a number.
        images_per_batch: images in a batch of one process.
        questions_per_image: questions of an image are taken in groups of at most so many, each
            group where the order puts it. None takes all together; 1 is the usual independent
            sampling.
        shuffle: a new order every epoch; otherwise the order of the table.
        seed: of the order.
        rank, world: this process and how many there are.
    """

    def __init__(
        self,
        groups: np.ndarray,
        images_per_batch: int,
        questions_per_image: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        check_positive(images_per_batch=images_per_batch)
        if questions_per_image is not None:
            check_positive(questions_per_image=questions_per_image)
        self.groups, self.images_per_batch = groups, images_per_batch
        self.questions_per_image, self.shuffle, self.seed = questions_per_image, shuffle, seed
        self.rank, self.world = rank, world
        self.epoch = 0
        counts = np.bincount(groups)
        per_unit = questions_per_image or int(counts.max(initial=1))
        self.units = int(np.ceil(counts / per_unit).sum())
        # A last batch with fewer units than processes joins the one before: none goes without.
        full, rest = divmod(self.units, images_per_batch * world)
        self.batches = max(1, full + (rest >= world)) if self.units else 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; the trainer calls this at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[BatchRows]:
        order, starts = self._units()
        ends = np.append(starts[1:], len(order))
        units = np.arange(self.units)
        if self.shuffle:
            units = np.random.default_rng((self.seed, self.epoch, 1)).permutation(units)
        size = self.images_per_batch * self.world
        edges = [*range(0, size * self.batches, size), self.units]
        for first, last in pairwise(edges):
            chosen = units[first:last]
            mine = np.array_split(chosen, self.world)[self.rank]
            rows = [order[starts[unit] : ends[unit]] for unit in mine]
            total = int((ends[chosen] - starts[chosen]).sum())
            yield BatchRows(np.concatenate(rows) if rows else np.empty(0, np.int64), total)

    def _units(self) -> tuple[np.ndarray, np.ndarray]:
        """Questions in an order where a unit's stand together, and where each unit starts."""
        if self.shuffle:
            within = np.random.default_rng((self.seed, self.epoch, 0)).random(len(self.groups))
        else:
            within = np.arange(len(self.groups), dtype=np.float64)
        order = np.lexsort((within, self.groups))
        sorted_groups = self.groups[order]
        image_starts = np.flatnonzero(np.diff(sorted_groups, prepend=-1))
        position = np.arange(len(order)) - np.repeat(
            image_starts, np.diff(np.append(image_starts, len(order)))
        )
        per_unit = self.questions_per_image or len(order)
        return order, np.flatnonzero(position % per_unit == 0)
