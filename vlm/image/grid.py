"""What the encoders that wrap another library's image models share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from vlm.core.features import masked_max, masked_mean


def side_by_side(stages: Sequence[Tensor]) -> Tensor:
    """Maps (B, D, H, W) of one or several stages -> one map, on the grid of the last.

    Finer maps are averaged and coarser ones repeated, so that a cell holds all scales at
    its place (hypercolumns, Hariharan et al. 2015, arXiv 1411.5752).
    """
    *others, last = stages
    grid = (last.shape[2], last.shape[3])
    return torch.cat([*(F.adaptive_avg_pool2d(x, grid) for x in others), last], 1)


def rows_of(grid: Tensor) -> Tensor:
    """A map (B, D, H, W) -> tokens (B, H * W, D), row by row."""
    return grid.flatten(2).mT


def summary(tokens: Tensor, mask: Tensor, pool: str) -> Tensor:
    """Mean or maximum of the real tokens: (B, P, D) -> (B, D)."""
    return masked_mean(tokens, mask) if pool == "mean" else masked_max(tokens, mask)


def check_stages(stages: Sequence[int] | None, count: int, name: str) -> None:
    """Refuse stages that a model with so many does not have."""
    if stages is None:
        return
    wrong = [s for s in stages if not -count <= s < count]
    if wrong or not stages:
        raise ValueError(
            f"stages: got {list(stages)}; {name} has {count}, so expected one or more of "
            f"0 - {count - 1}, or of -{count} - -1 from the end."
        )
