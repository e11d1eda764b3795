"""Weights between those before fine-tuning and those after it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def interpolate(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], alpha: float
) -> dict[str, Tensor]:
    """(1 - alpha) before + alpha after, name by name: WiSE-FT (Wortsman et al. 2022, arXiv
    2109.01903), of the encoders alone. 0 and 1 give the ends bit for bit.

    Statistics of batch normalisation are taken between likewise. What is no floating-point number
    (its count of batches) is that of the nearer end.

    Args:
        before: at alpha 0.
        after: at alpha 1; the same names and shapes.
        alpha: in [0, 1].

    Raises:
        ValueError: an alpha out of range.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha: got {alpha}; expected 0 (before) to 1 (after).")
    assert before.keys() == after.keys()
    mixed = {}
    for name, start in before.items():
        end = after[name].to(start.device)
        if start.is_floating_point():
            mixed[name] = torch.lerp(start, end.to(start.dtype), alpha)
        else:
            mixed[name] = end if alpha >= 0.5 else start
    return mixed
