"""Centred kernel alignment: how similar two representations of the same examples are.

Linear CKA (Kornblith et al. 2019, arXiv 1905.00414) with the unbiased estimate of HSIC (Song et al.
2012, "Feature Selection via Dependence Maximization"), averaged over batches before the ratio is
taken (Nguyen et al. 2021, arXiv 2010.15327):

    CKA = mean HSIC(K, L) / sqrt(mean HSIC(K, K) mean HSIC(L, L)),  K = X X^T,  L = Y Y^T

CKA is 1 for representations that differ only by a rotation and a scale, and about 0, possibly
slightly below, for unrelated ones. The plain form is biased upwards if there are more features than
examples, as in every layer of a network, and depends on the number of examples; this one does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

import torch
from torch import Tensor

LEAST = 4
"""Examples in a batch; the estimate divides by n - 3."""


def gram(features: Tensor) -> Tensor:
    """Inner products of examples: (B, ...) -> (B, B) float64, on the CPU."""
    rows = features.flatten(1).float()
    # HSIC ignores a common offset; subtracting it keeps precision.
    centred = rows - rows.mean(0)
    # If all are equal, only rounding errors remain.
    same = centred.abs().max() <= 8 * torch.finfo(rows.dtype).eps * rows.abs().max()
    rows = torch.zeros_like(centred) if same else centred
    return (rows @ rows.mT).cpu().double()


def hsic(before: Tensor, after: Tensor) -> float:
    """The unbiased estimate of HSIC of two kernel matrices (B, B), B at least 4."""
    n = len(before)
    assert n >= LEAST, f"HSIC of {n} examples"
    before, after = (kernel - torch.diag(kernel.diagonal()) for kernel in (before, after))
    same = (before * after).sum()
    total = before.sum() * after.sum() / ((n - 1) * (n - 2))
    rows = before.sum(0) @ after.sum(0) * 2 / (n - 2)
    return float(same + total - rows) / (n * (n - 3))


def cka(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """CKA of one layer, from `gram` of each batch before and of the same batches after: at most 1;
    NaN if the layer's output is the same for all examples."""
    pairs = list(zip(before, after, strict=True))
    cross = fmean(hsic(*pair) for pair in pairs)
    own = fmean(hsic(k, k) for k in before) * fmean(hsic(k, k) for k in after)
    return cross / math.sqrt(own) if own > 0 else math.nan
