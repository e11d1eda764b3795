"""First weights of a fusion."""

from __future__ import annotations

from torch import nn


def he_uniform(module: nn.Module) -> None:
    """Initialise all linear layers in `module` as in He et al. 2015 (arXiv 1502.01852, equation
    10), which keeps the variance through a ReLU, with biases of zero.

    PyTorch's default weights are smaller by a factor of sqrt(6). Where questions share most of
    their words, the few that differ then have little effect on the output, and nothing is learned
    for a long time: `GlimpseAttention` learned places only with these weights in its two merges
    (docs/log.md, 2026-11-30).
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def xavier_uniform(module: nn.Module) -> None:
    """Initialise all linear layers in `module` as Glorot & Bengio 2010 (equation 16), biases with
    zeros, as `nn.MultiheadAttention` does.

    PyTorch's default weights are smaller by a factor of sqrt(3) in a square layer. From patches to
    what attention makes of them lie two layers or three, so that beside the residual connection
    little of the image would be left (docs/log.md, 2026-11-30).
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
