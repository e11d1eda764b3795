"""Merges without a structure of their own: the elementwise product and concatenation + MLP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from vlm.fusion.base import Merge, check_positive

Activation = Literal["identity", "relu", "tanh", "gelu"]
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "identity": nn.Identity,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
}


class Product(Merge):
    """Elementwise product of two projections: a(W x + b) * a(V y + c).

    The joint embedding of Antol et al. 2015 (arXiv 1505.00468, section 4) and of bottom-up
    top-down attention (arXiv 1707.07998, equation 9).

    Args:
        x_dim, y_dim: widths that come in.
        out_dim: width of both projections and of the result.
        activation: a, applied to both factors. The default is linear: the product is nonlinear
            already, and saturating factors train less reliably (docs/log.md).
        dropout: share of the result dropped in training, in [0, 1).
    """

    def __init__(
        self,
        x_dim: int,
        y_dim: int,
        out_dim: int = 256,
        activation: Activation = "identity",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(x_dim, y_dim, out_dim)
        self.x_projection = nn.Sequential(nn.Linear(x_dim, out_dim), ACTIVATIONS[activation]())
        self.y_projection = nn.Sequential(nn.Linear(y_dim, out_dim), ACTIVATIONS[activation]())
        self.dropout = nn.Dropout(dropout)

    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        return self.dropout(self.x_projection(x) * self.y_projection(y))


class ConcatMLP(Merge):
    """Concatenation, then a perceptron: MLP([x, y]).

    Args:
        x_dim, y_dim: widths that come in.
        out_dim: width of the result, which is linear.
        hidden_dims: widths of the hidden layers.
        activation: after each hidden layer.
        dropout: share dropped after each hidden layer in training, in [0, 1).
    """

    def __init__(
        self,
        x_dim: int,
        y_dim: int,
        out_dim: int = 256,
        hidden_dims: Sequence[int] = (256, 256),
        activation: Activation = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(x_dim, y_dim, out_dim)
        first, *rest = [*hidden_dims, out_dim]
        check_positive(**{f"hidden_dims[{i}]": dim for i, dim in enumerate(hidden_dims)})
        # The first layer on [x, y] is a sum of two: neither a copy of the question for every
        # patch nor a concatenated tensor is made when the leading dimensions broadcast.
        self.x_projection = nn.Linear(x_dim, first)
        self.y_projection = nn.Linear(y_dim, first, bias=False)
        layers: list[nn.Module] = []
        for dim, next_dim in zip([first, *rest], rest, strict=False):
            layers += [ACTIVATIONS[activation](), nn.Dropout(dropout), nn.Linear(dim, next_dim)]
        self.layers = nn.Sequential(*layers)

    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        return self.layers(self.x_projection(x) + self.y_projection(y))
