"""Merges by products of projections: MLB, MFB and MFH."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vlm.core.validation import check_positive
from vlm.fusion.base import Merge
from vlm.fusion.initialize import he_uniform
from vlm.fusion.merges.elementwise import (
    ACTIVATIONS,
    Activation,
    broadcast_product,
    power_normalize,
)


class MLB(Merge):
    """Multimodal low-rank bilinear pooling: o(O n(a(W x + b) * a(V y + c))).

    Kim et al. 2017 (arXiv 1610.04325, equation 8) with a = tanh and neither n nor o.

    Parameters: (x_dim + y_dim + 2) H + (H + 1) out_dim with H = hidden_dim.

    Args:
        x_dim, y_dim: widths of the inputs.
        out_dim: width of the result.
        hidden_dim: rank H of the bilinear map.
        input_activation: activation a of both factors.
        output_activation: activation o after the last projection.
        normalize: whether n is the signed square root and L2 normalisation, or the identity.
        dropout: fraction of both factors dropped in training, in [0, 1).

    Example:
        >>> merge = vlm.fusion.MLB(x_dim=64, y_dim=32, out_dim=48)
        >>> merge(torch.randn(2, 49, 64), torch.randn(2, 1, 32)).shape
        torch.Size([2, 49, 48])
    """

    def __init__(
        self,
        x_dim: int,
        y_dim: int,
        out_dim: int = 256,
        hidden_dim: int = 256,
        input_activation: Activation = "tanh",
        output_activation: Activation = "identity",
        normalize: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(x_dim, y_dim, out_dim)
        check_positive(hidden_dim=hidden_dim)
        self.normalize = normalize
        self.x_projection = nn.Linear(x_dim, hidden_dim)
        self.y_projection = nn.Linear(y_dim, hidden_dim)
        self.input_activation = ACTIVATIONS[input_activation]()
        self.dropout = nn.Dropout(dropout)
        self.out_projection = nn.Linear(hidden_dim, out_dim)
        self.output_activation = ACTIVATIONS[output_activation]()
        he_uniform(self)

    def prepare(self, x: Tensor) -> Tensor:
        return self.input_activation(self.x_projection(x))

    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        y = self.input_activation(self.y_projection(y))
        z = self.dropout(x) * self.dropout(y)  # (..., H)
        z = power_normalize(z) if self.normalize else z
        return self.output_activation(self.out_projection(z))


class MFB(Merge):
    """Multimodal factorised bilinear pooling: o(O n(sum_k (a(W x + b) * a(V y + c))_k)).

    The product of width H K is summed in groups of K neighbours (Yu et al. 2017,
    arXiv 1708.01471, equations 4 and 5). The last projection makes `out_dim` of H.

    Parameters: (x_dim + y_dim + 2) H K + (H + 1) out_dim with H = hidden_dim and K = factor.

    Args:
        x_dim, y_dim: widths of the inputs.
        out_dim: width of the result.
        hidden_dim: width H after the sum.
        factor: K, the size of a group.
        input_activation: activation a of both factors.
        output_activation: activation o after the last projection.
        normalize: whether n is the signed square root and L2 normalisation, as in the paper, or the
            identity.
        dropout: fraction of the product dropped before the sum in training, in [0, 1).

    Example:
        >>> merge = vlm.fusion.MFB(x_dim=64, y_dim=32, out_dim=48, hidden_dim=16)
        >>> merge(torch.randn(2, 49, 64), torch.randn(2, 1, 32)).shape
        torch.Size([2, 49, 48])
    """

    def __init__(
        self,
        x_dim: int,
        y_dim: int,
        out_dim: int = 256,
        hidden_dim: int = 256,
        factor: int = 5,
        input_activation: Activation = "identity",
        output_activation: Activation = "identity",
        normalize: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(x_dim, y_dim, out_dim)
        self.block = FactorizedBlocks(
            x_dim, y_dim, hidden_dim, factor, 1, input_activation, normalize, dropout
        )
        self.out_projection = nn.Linear(hidden_dim, out_dim)
        self.output_activation = ACTIVATIONS[output_activation]()

    def prepare(self, x: Tensor) -> list[Tensor]:
        return self.block.prepare(x)

    def merge(self, x: list[Tensor], y: Tensor) -> Tensor:
        return self.output_activation(self.out_projection(self.block.merge(x, y)))


class MFH(Merge):
    """Multimodal factorised high-order pooling: MFB blocks in a chain, concatenated.

    The product of block i is multiplied into that of block i + 1 before its sum (Yu et al. 2018,
    arXiv 1708.03619, equations 9 to 11).

    Parameters: p (x_dim + y_dim + 2) H K + (p H + 1) out_dim with p = order, H = hidden_dim and
    K = factor.

    Args:
        x_dim, y_dim: widths of the inputs.
        out_dim: width of the result.
        hidden_dim: width H of each block after its sum.
        factor: K, the size of a group.
        order: number p of blocks; 1 is MFB.
        input_activation: activation a of both factors.
        output_activation: activation o after the last projection.
        normalize: whether each block has a signed square root and L2 normalisation, as in the
            paper.
        dropout: fraction of each product dropped before the sum in training, in [0, 1).

    Example:
        >>> merge = vlm.fusion.MFH(x_dim=64, y_dim=32, out_dim=48, hidden_dim=16)
        >>> merge(torch.randn(2, 49, 64), torch.randn(2, 1, 32)).shape
        torch.Size([2, 49, 48])
    """

    def __init__(
        self,
        x_dim: int,
        y_dim: int,
        out_dim: int = 256,
        hidden_dim: int = 256,
        factor: int = 5,
        order: int = 2,
        input_activation: Activation = "identity",
        output_activation: Activation = "identity",
        normalize: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(x_dim, y_dim, out_dim)
        self.blocks = FactorizedBlocks(
            x_dim, y_dim, hidden_dim, factor, order, input_activation, normalize, dropout
        )
        self.out_projection = nn.Linear(order * hidden_dim, out_dim)
        self.output_activation = ACTIVATIONS[output_activation]()

    def prepare(self, x: Tensor) -> list[Tensor]:
        return self.blocks.prepare(x)

    def merge(self, x: list[Tensor], y: Tensor) -> Tensor:
        return self.output_activation(self.out_projection(self.blocks.merge(x, y)))


class FactorizedBlocks(nn.Module):
    """A chain of MFB blocks: (..., x_dim), (..., y_dim) -> (..., order * hidden_dim)."""

    def __init__(
        self,
        x_dim: int,
        y_dim: int,
        hidden_dim: int,
        factor: int,
        order: int,
        activation: Activation,
        normalize: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        check_positive(hidden_dim=hidden_dim, factor=factor, order=order)
        self.factor, self.normalize = factor, normalize
        wide = hidden_dim * factor
        # One for each block: joint ones for all are no faster, and their gradients are held twice.
        self.x_projections = nn.ModuleList(nn.Linear(x_dim, wide) for _ in range(order))
        self.y_projections = nn.ModuleList(nn.Linear(y_dim, wide) for _ in range(order))
        self.activation = ACTIVATIONS[activation]()
        self.dropout = nn.Dropout(dropout)

    def prepare(self, x: Tensor) -> list[Tensor]:
        """The factor of each block that x alone makes."""
        return [self.activation(projection(x)) for projection in self.x_projections]

    def merge(self, factors: list[Tensor], y: Tensor) -> Tensor:
        product: Tensor | None = None
        blocks = []
        for factor, projection in zip(factors, self.y_projections, strict=True):
            here = broadcast_product(factor, self.activation(projection(y)))  # (..., H * K)
            product = self.dropout(here if product is None else here * product)
            z = product.unflatten(-1, (-1, self.factor)).sum(-1)  # (..., H)
            blocks.append(power_normalize(z) if self.normalize else z)
        return torch.cat(blocks, -1) if len(blocks) > 1 else blocks[0]
