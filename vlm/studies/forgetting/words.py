"""The nearest neighbours of words, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F


class Change(NamedTuple):
    """A word's neighbours.

    Attributes:
        word: itself.
        before: its nearest ones, the nearest first.
        after: likewise.
    """

    word: str
    before: list[str]
    after: list[str]

    @property
    def kept(self) -> float:
        """Share of the neighbours before that still are, in [0, 1]."""
        return len({*self.before} & {*self.after}) / len(self.before)


def nearest(vectors: Tensor, k: int) -> Tensor:
    """The k nearest others by cosine: (W, D) -> (W, k) int64, the nearest first."""
    units = F.normalize(vectors, dim=1)
    return (units @ units.mT).fill_diagonal_(-2).topk(k, 1).indices


def neighbour_changes(words: Sequence[str], before: Tensor, after: Tensor) -> list[Change]:
    """Of each word, from `nearest` (W, k) before and after."""
    return [
        Change(word, [words[i] for i in old], [words[i] for i in new])
        for word, old, new in zip(words, before.tolist(), after.tolist(), strict=True)
    ]
