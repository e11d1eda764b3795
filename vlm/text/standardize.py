"""Standardised words: what all questions have in common is taken away."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vlm.core.features import Features


class Standardize(nn.Module):
    """Tokens and `pooled` with mean 0 and variance 1 in each channel: over the real words and the
    questions of a batch in training, by running averages afterwards.

    It is batch normalisation (arXiv 1502.03167) without gain and bias. Questions share most of
    their words, so most of what a fusion sees is the same in all of them, and fusions that have to
    match a word with a patch stay at chance for epochs (docs/choosing_a_fusion.md). Layer
    normalisation does not help: it takes nothing away that questions have in common.

    Texts that are no questions, such as choices, are brought by the running averages of the
    questions in training too: with averages of their own, these would be of neither afterwards.

    Args:
        dim: width of the tokens.

    Example:
        >>> standardize = Standardize(64)
        >>> features = standardize(Features(3 + torch.randn(8, 7, 64)))
        >>> bool(features.tokens.mean().abs() < 1e-5)
        True
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.tokens = nn.BatchNorm1d(dim, affine=False)
        self.pooled = nn.BatchNorm1d(dim, affine=False)

    def forward(self, features: Features, questions: bool = True) -> Features:
        """Features (B, L, dim), of `questions` or of other texts -> the same; zeros in the padding,
        and for an empty question."""
        tokens, mask, pooled, boxes = features
        tokens = _standard(self.tokens, tokens, mask, questions)
        pooled = _standard(self.pooled, pooled, mask.any(1), questions)
        return Features(tokens, mask, pooled, boxes)


def _standard(norm: nn.BatchNorm1d, x: Tensor, real: Tensor, learn: bool) -> Tensor:
    """The real rows of x (..., D), standardised; zeros elsewhere."""
    real = real[..., None]
    if norm.training and learn:
        rows = x[real.squeeze(-1)]
        # One row has no variance. Synchronised, every process has to take part.
        if rows.shape[0] > 1 or isinstance(norm, nn.SyncBatchNorm):
            return torch.zeros_like(x).masked_scatter(real, norm(rows).to(x.dtype))
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    return torch.where(real, (x - mean) * (variance + norm.eps).rsqrt(), 0).to(x.dtype)
