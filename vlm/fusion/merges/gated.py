"""A merge in which a gate chooses between the two sides: GMU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vlm.fusion.base import Merge


class GMU(Merge):
    """Gated multimodal unit: z tanh(W x) + (1 - z) tanh(V y), z = sigmoid(G [x, y]).

    For each feature of the result, the gate z sets how much comes from x (Arevalo et al. 2017,
    arXiv 1702.01992, the bimodal case). There are no biases, as in the paper.

    Parameters: 2 (x_dim + y_dim) out_dim.

    Args:
        x_dim, y_dim: widths of the inputs.
        out_dim: width of the result, whose values lie between -1 and 1.

    Example:
        >>> merge = vlm.fusion.GMU(x_dim=64, y_dim=32, out_dim=48)
        >>> merge(torch.randn(2, 49, 64), torch.randn(2, 1, 32)).shape
        torch.Size([2, 49, 48])
    """

    def __init__(self, x_dim: int, y_dim: int, out_dim: int = 256) -> None:
        super().__init__(x_dim, y_dim, out_dim)
        # Each side to its own features and its share of the gate, in one product: the gate on
        # [x, y] is a sum, so nothing is concatenated or copied when leading dimensions broadcast.
        self.x_projection = nn.Linear(x_dim, 2 * out_dim, bias=False)
        self.y_projection = nn.Linear(y_dim, 2 * out_dim, bias=False)

    def prepare(self, x: Tensor) -> Tensor:
        return self.x_projection(x)

    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        x, x_gate = x.chunk(2, -1)  # (..., D) each
        y, y_gate = self.y_projection(y).chunk(2, -1)
        return torch.lerp(y.tanh(), x.tanh(), (x_gate + y_gate).sigmoid())
