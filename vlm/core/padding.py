"""Lists of unequal length as tensors, as making a batch needs them; many are alike."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from itertools import chain
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Item = TypeVar("Item", bound=Hashable)


def distinct(items: Iterable[Item]) -> tuple[list[Item], list[int]]:
    """The different items in the order of their first, and the place of each item among them.

    >>> distinct(["b", "a", "b"])
    (['b', 'a'], [0, 1, 0])
    """
    places: dict[Item, int] = {}
    index = [places.setdefault(item, len(places)) for item in items]
    return list(places), index


def padded(rows: Sequence[Sequence[int]], fill: int = 0, least: int = 0) -> tuple[Tensor, Tensor]:
    """Rows (R, L) int64 of whole numbers, filled up at the end, and their mask (R, L) bool; L is
    the longest row's length, or `least`."""
    # By numpy: torch takes three times as long to read nested lists.
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    mask = np.arange(max(least, lengths.max(initial=0))) < lengths[:, None]
    content = np.full(mask.shape, fill, np.int64)
    content[mask] = np.fromiter(chain.from_iterable(rows), np.int64, int(lengths.sum()))
    return torch.from_numpy(content), torch.from_numpy(mask)
