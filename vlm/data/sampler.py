"""The order of questions: batches of whole images, a pure function of seed and epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil, inf
from typing import NamedTuple

import numpy as np
from torch.utils.data import DistributedSampler

from vlm.core.validation import check_positive
from vlm.datasets.errors import DataError

SHARDS_MIXED = 8
"""Shards of which an epoch has the images at a time."""


class BatchRows(NamedTuple):
    """One process's share of a global batch.

    Attributes:
        rows: rows of the question table.
        total: number of questions in the global batch, over all processes and all batches whose
            gradients are accumulated; infinite for rows of another process, which add nothing
            here.
        epoch: epoch of the training, on which augmentations depend.
    """

    rows: np.ndarray
    total: float
    epoch: int = 0


class Mixing(NamedTuple):
    """How the sets of a mixture share an epoch.

    Attributes:
        sets: (G,) the number of each image's set.
        shares: numbers of units of the sets -> their shares of an epoch, with the sum 1.
    """

    sets: np.ndarray
    shares: Callable[[np.ndarray], np.ndarray]


class ImageGroupSampler(DistributedSampler[BatchRows]):
    """Batches that hold the questions of so many images, so that each is encoded once.

    A `DistributedSampler` in name alone: trainers leave it alone, since it gives each process its
    own share.

    Args:
        groups: (Q,) the image of each question, as a number.
        images_per_batch: images in a batch of one process.
        questions_per_image: questions of an image are taken in groups of at most so many, each
            group where the order puts it. None takes all together; 1 is the usual independent
            sampling.
        seed: seed of the order, a new one every epoch; None keeps the order of the table.
        rank, world: this process and how many there are.
        accumulate: global batches whose gradients make one step.
        limit: batches that are taken of an epoch: a number (int) or a share (float).
        shards: (G,) the number of each image's shard, where shards are fetched one after the
            other: the order then comes to each once an epoch, and mixes the images of
            `SHARDS_MIXED`. None where any image is as near as any other.
        mixing: shares of several sets in an epoch; None takes every unit once. With it questions
            stay in the same units over the epochs, and those of a set come equally often, to within
            one time.

    Raises:
        DataError: a set with less than one unit in an epoch.

    Attributes:
        epoch: epoch of the order.
        start: batches of this epoch that the next iteration leaves out, being done already.
    """

    def __init__(
        self,
        groups: np.ndarray,
        images_per_batch: int,
        questions_per_image: int | None = None,
        seed: int | None = 0,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
        limit: int | float = 1.0,
        shards: np.ndarray | None = None,
        mixing: Mixing | None = None,
    ) -> None:
        check_positive(images_per_batch=images_per_batch, accumulate=accumulate)
        if questions_per_image is not None:
            check_positive(questions_per_image=questions_per_image)
        self.groups, self.images_per_batch = groups, images_per_batch
        self.questions_per_image, self.seed, self.shards = questions_per_image, seed, shards  # type: ignore[assignment]  # the base has a whole number as seed
        self.rank, self.world, self.accumulate = rank, world, accumulate
        self.epoch = self.start = 0
        counts = np.bincount(groups)
        per_unit = questions_per_image or int(counts.max(initial=1))
        units = np.ceil(counts / per_unit).astype(np.int64)
        self.units = int(units.sum())
        self._sets = self._quotas = None
        if mixing is not None and seed is not None:
            self._sets = mixing.sets
            of_each = np.bincount(mixing.sets, weights=units).astype(np.int64)
            self._quotas = quotas(mixing.shares(of_each), self.units)
        self.batches = ceil(self.units / (images_per_batch * world))
        self.taken = int(self.batches * limit) if isinstance(limit, float) else limit

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; the trainer calls this at the start of each epoch."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[BatchRows]:
        order, starts = self._units()
        ends = np.append(starts[1:], len(order))
        units = self._shuffled(self.groups[order[starts]])
        size = self.images_per_batch * self.world
        edges = np.append(np.arange(0, self.units, size), self.units)
        questions = np.append(0, np.cumsum((ends - starts)[units]))[edges]
        start, self.start = self.start, 0
        for batch in range(start, self.batches):
            chosen = units[edges[batch] : edges[batch + 1]]
            mine = np.array_split(chosen, self.world)[self.rank]
            first = batch - batch % self.accumulate
            last = max(batch + 1, min(first + self.accumulate, self.taken, self.batches))
            total = float(questions[last] - questions[first])
            # A process without images repeats another's, so that all take the same steps. This adds
            # nothing in training, and an evaluation counts each id once.
            if not len(mine):
                mine, total = chosen[-1:], inf
            rows = np.concatenate([order[starts[unit] : ends[unit]] for unit in mine])
            yield BatchRows(rows, total, self.epoch)

    def _units(self) -> tuple[np.ndarray, np.ndarray]:
        """Questions in an order where a unit's stand together, and where each unit starts."""
        if self.seed is not None:
            epoch = self.epoch if self._sets is None else 0
            within = np.random.default_rng((self.seed, epoch, 0)).random(len(self.groups))
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

    def _shuffled(self, images: np.ndarray) -> np.ndarray:
        """The units in their order; `images` (units,) is the image of each."""
        if self.seed is None:
            return np.arange(self.units)
        random = np.random.default_rng((self.seed, self.epoch, 1))
        if self._sets is not None:
            return random.permutation(self._chosen(self._sets[images]))
        if self.shards is None:
            return random.permutation(self.units)
        # From its shard's turn on, a unit waits for up to `SHARDS_MIXED` turns.
        turns = random.permutation(int(self.shards.max(initial=-1)) + 1)
        return np.argsort(turns[self.shards[images]] + SHARDS_MIXED * random.random(self.units))

    def _chosen(self, sets: np.ndarray) -> np.ndarray:
        """The units of this epoch, by the set of each.

        A set's units are an endless sequence of permutations of all of them, of which each epoch
        takes the next part.
        """
        chosen = []
        assert self._quotas is not None
        for number, quota in enumerate(self._quotas.tolist()):
            mine = np.flatnonzero(sets == number)
            start = self.epoch * quota
            passes = range(start // len(mine), (start + quota - 1) // len(mine) + 1)
            units = np.concatenate(
                [np.random.default_rng((self.seed, i, 2, number)).permutation(mine) for i in passes]
            )
            start -= passes[0] * len(mine)
            chosen.append(units[start : start + quota])
        return np.concatenate(chosen)


def quotas(shares: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers with the sum `total` in these shares, by largest remainders.

    Raises:
        DataError: one of them is 0.
    """
    exact = shares * total
    whole = np.floor(exact).astype(np.int64)
    most = np.argsort(whole - exact, kind="stable")
    whole[most[: total - int(whole.sum())]] += 1
    if not whole.all():
        raise DataError(
            f"dataset.weights: got shares that give a set less than one of the {total:,} images of "
            f"an epoch ({', '.join(f'{share:.3g}' for share in shares)}); expected more for it, or "
            "leave it out."
        )
    return whole
