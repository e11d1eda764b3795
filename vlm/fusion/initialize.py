"""First weights of a fusion."""

from __future__ import annotations

from torch import nn


def he_uniform(module: nn.Module) -> None:
    """Give all linear layers within the first weights of He et al. 2015 (arXiv 1502.01852, equation
    10), which keep the variance through a ReLU, and biases of zero.

    PyTorch's own weights are smaller by a factor of sqrt(6). Where questions share most of their
    words, what one says differently then hardly changes the result, and nothing is learned for a
    long time (docs/log.md, 2026-11-30).
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
