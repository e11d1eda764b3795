"""The multilayer perceptron that several fusions and merges end in."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from vlm.core.validation import check_positive


def perceptron(dim: int, hidden_dims: Sequence[int], out_dim: int, dropout: float) -> nn.Sequential:
    """Linear layers with a ReLU and dropout between them."""
    check_positive(**{f"hidden_dims[{i}]": hidden for i, hidden in enumerate(hidden_dims)})
    layers: list[nn.Module] = []
    for hidden in hidden_dims:
        layers += [nn.Linear(dim, hidden), nn.ReLU(), nn.Dropout(dropout)]
        dim = hidden
    return nn.Sequential(*layers, nn.Linear(dim, out_dim))
