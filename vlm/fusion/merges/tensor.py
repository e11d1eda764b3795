"""Tensor fusion: all products of two channels, and the channels themselves."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vlm.core.validation import check_positive
from vlm.fusion.base import Merge
from vlm.fusion.perceptron import perceptron


class TensorFusion(Merge):
    """A perceptron on the outer product of two projections, each with a 1 at its end.

        MLP([x'; 1] (outer) [y'; 1]),  x' = W x + b,  y' = V y + c

    Tensor fusion (Zadeh et al. 2017, arXiv 1707.07250, section 4.2). The ones keep the channels of
    each side beside the products of both. The perceptron's first layer on it is

        z_k = sum_ij x'_i T_ijk y'_j + (U x')_k + (S y')_k + d_k,

    a multiplicative interaction (Jayakumar et al. 2020, ICLR, section 2), which is the whole merge
    with `hidden_dims=()`. Its low-rank form (Liu et al. 2018, arXiv 1806.00064) is
    `MFB(normalize=False)`.

    Parameters: (x_dim + y_dim + 2) H + (H + 1)^2 F + those of the layers after the first, with
    H = hidden_dim and F the first of hidden_dims, or out_dim.

    Args:
        x_dim, y_dim: widths of the inputs.
        out_dim: width of the result, which is linear.
        hidden_dim: width H of both projections.
        hidden_dims: widths of the perceptron's hidden layers.
        dropout: fraction dropped after each hidden layer in training, in [0, 1).

    Example:
        >>> merge = vlm.fusion.TensorFusion(x_dim=64, y_dim=32, out_dim=48)
        >>> merge(torch.randn(2, 49, 64), torch.randn(2, 1, 32)).shape
        torch.Size([2, 49, 48])
    """

    def __init__(
        self,
        x_dim: int,
        y_dim: int,
        out_dim: int = 256,
        hidden_dim: int = 32,
        hidden_dims: Sequence[int] = (128,),
        dropout: float = 0.0,
    ) -> None:
        super().__init__(x_dim, y_dim, out_dim)
        check_positive(hidden_dim=hidden_dim)
        check_positive(**{f"hidden_dims[{i}]": dim for i, dim in enumerate(hidden_dims)})
        first, *rest = [*hidden_dims, out_dim]
        self.x_projection = nn.Linear(x_dim, hidden_dim)
        self.y_projection = nn.Linear(y_dim, hidden_dim)
        self.x_linear = nn.Linear(hidden_dim, first)
        self.y_linear = nn.Linear(hidden_dim, first, bias=False)
        # (j, i, k): y is contracted first, since one question often meets many patches.
        self.weight = nn.Parameter(torch.empty(hidden_dim, hidden_dim, first))
        nn.init.uniform_(self.weight, -(3**0.5) / hidden_dim, 3**0.5 / hidden_dim)
        behind = perceptron(first, rest[:-1], out_dim, dropout) if rest else None
        self.layers = (
            nn.Sequential(nn.ReLU(), nn.Dropout(dropout), behind) if behind else nn.Identity()
        )

    def prepare(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.x_projection(x)
        return x, self.x_linear(x)

    def merge(self, x: tuple[Tensor, Tensor], y: Tensor) -> Tensor:
        projected, linear = x
        y = self.y_projection(y)
        maps = (y @ self.weight.flatten(1)).unflatten(-1, self.weight.shape[1:])  # (..., i, k)
        products = torch.einsum("...i,...ik->...k", projected, maps)
        return self.layers(products + linear + self.y_linear(y))
