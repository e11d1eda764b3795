"""Standardised words: what all questions have in common is taken away."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vlm.core.features import Features


class Standardize(nn.Module):
    """Standardises tokens and `pooled` to mean 0 and variance 1 in each channel: in training over
    the real words and the questions of a batch, and afterwards by running averages.

    It is batch normalisation (arXiv 1502.03167) without gain and bias. Questions share most of
    their words, so most of their features are the same, and fusions that must match a word with a
    patch stay at chance for epochs (docs/choosing_a_fusion.md). Layer normalisation does not help,
    because it does not remove what questions have in common.

    Other texts, such as choices, are always standardised by the running averages of the questions,
    also in training. Otherwise, the averages would fit neither questions nor choices.

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
        self.tokens = _Standard(dim)
        self.pooled = _Standard(dim)

    def forward(self, features: Features, questions: bool = True) -> Features:
        """Features (B, L, dim), of `questions` or of other texts -> the same; zeros in the padding,
        and for an empty question."""
        tokens, mask, pooled, boxes = features
        tokens = self.tokens(tokens, mask, questions)
        return Features(tokens, mask, self.pooled(pooled, mask.any(1), questions), boxes)


class _Standard(nn.Module):
    """The real rows of (..., D), standardised; zeros elsewhere.

    Not an `nn.BatchNorm1d`, which knows no padding: to leave it out, a GPU would have to wait until
    the number of rows is known. Each process standardises its own questions.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, dim: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("variance", torch.ones(dim))

    def forward(self, x: Tensor, real: Tensor, learn: bool) -> Tensor:
        real = real[..., None]
        mean, variance = self.mean, self.variance
        if self.training and learn:
            wide = torch.promote_types(x.dtype, torch.float32)
            rows, kept = x.to(wide).flatten(0, -2), real.flatten(0, -2)  # (N, D), (N, 1)
            count = kept.sum()
            several = count > 1  # one row has no variance
            own = torch.where(kept, rows, 0).sum(0) / count.clamp(min=1)
            spread = torch.where(kept, rows - own, 0).square().sum(0) / count.clamp(min=1)
            with torch.no_grad():
                weight = (self.momentum * several).to(mean.dtype)
                unbiased = spread * count / (count - 1).clamp(min=1)
                mean.lerp_(own.to(mean.dtype), weight)
                variance.lerp_(unbiased.to(mean.dtype), weight)
            mean, variance = torch.where(several, own, mean), torch.where(several, spread, variance)
        return torch.where(real, (x - mean) * (variance + self.eps).rsqrt(), 0).to(x.dtype)
