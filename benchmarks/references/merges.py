"""Merges of two vectors, as defined by the BLOCK repository (arXiv 1902.00038), and two more.

`x0` may be one question (B, 1, D) for all regions `x1` (B, N, D), but for ConcatMLP and MCB.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from references.pieces import (
    MLP,
    Bilinear,
    CountSketch,
    activate,
    chunk_sizes,
    concatenate,
    power_normalize,
)


class LinearSum(nn.Module):
    """act_out(out(n(act_in(linear0(x0)) + act_in(linear1(x1)))))."""

    def __init__(
        self,
        input_dims: Sequence[int],
        output_dim: int,
        mm_dim: int,
        activ_input: str = "relu",
        activ_output: str = "relu",
        normalize: bool = False,
    ) -> None:
        super().__init__()
        self.activ_input, self.activ_output = activ_input, activ_output
        self.normalize = normalize
        self.linear0 = nn.Linear(input_dims[0], mm_dim)
        self.linear1 = nn.Linear(input_dims[1], mm_dim)
        self.linear_out = nn.Linear(mm_dim, output_dim)

    def join(self, h0: Tensor, h1: Tensor) -> Tensor:
        return h0 + h1

    def forward(self, x0: Tensor, x1: Tensor) -> Tensor:
        h0 = activate(self.activ_input, self.linear0(x0))
        h1 = activate(self.activ_input, self.linear1(x1))
        z = self.join(h0, h1)
        if self.normalize:
            z = power_normalize(z)
        return activate(self.activ_output, self.linear_out(z))


class MLB(LinearSum):
    """The same with a product."""

    def join(self, h0: Tensor, h1: Tensor) -> Tensor:
        return h0 * h1


class MFB(LinearSum):
    """A product of width mm_dim * factor, summed in groups of `factor` neighbours."""

    def __init__(
        self,
        input_dims: Sequence[int],
        output_dim: int,
        mm_dim: int,
        factor: int,
        activ_input: str = "relu",
        activ_output: str = "relu",
        normalize: bool = False,
    ) -> None:
        super().__init__(
            input_dims, output_dim, mm_dim * factor, activ_input, activ_output, normalize
        )
        self.mm_dim, self.factor = mm_dim, factor
        self.linear_out = nn.Linear(mm_dim, output_dim)

    def join(self, h0: Tensor, h1: Tensor) -> Tensor:
        return (h0 * h1).unflatten(-1, (self.mm_dim, self.factor)).sum(-1)


class MFH(nn.Module):
    """Two MFB blocks; the product of the first is multiplied into that of the second."""

    def __init__(
        self,
        input_dims: Sequence[int],
        output_dim: int,
        mm_dim: int,
        factor: int,
        activ_input: str = "relu",
        activ_output: str = "relu",
        normalize: bool = False,
    ) -> None:
        super().__init__()
        self.activ_input, self.activ_output = activ_input, activ_output
        self.normalize, self.mm_dim, self.factor = normalize, mm_dim, factor
        self.linear0_0 = nn.Linear(input_dims[0], mm_dim * factor)
        self.linear1_0 = nn.Linear(input_dims[1], mm_dim * factor)
        self.linear0_1 = nn.Linear(input_dims[0], mm_dim * factor)
        self.linear1_1 = nn.Linear(input_dims[1], mm_dim * factor)
        self.linear_out = nn.Linear(2 * mm_dim, output_dim)

    def forward(self, x0: Tensor, x1: Tensor) -> Tensor:
        p0 = self.activate(self.linear0_0(x0)) * self.activate(self.linear1_0(x1))
        p1 = self.activate(self.linear0_1(x0)) * self.activate(self.linear1_1(x1)) * p0
        z = torch.cat([self.pool(p0), self.pool(p1)], -1)
        return activate(self.activ_output, self.linear_out(z))

    def activate(self, x: Tensor) -> Tensor:
        return activate(self.activ_input, x)

    def pool(self, product: Tensor) -> Tensor:
        z = product.unflatten(-1, (self.mm_dim, self.factor)).sum(-1)
        return power_normalize(z) if self.normalize else z


class ConcatMLP(nn.Module):
    """A perceptron on [x0, x1]."""

    def __init__(
        self,
        input_dims: Sequence[int],
        output_dim: int,
        dimensions: Sequence[int],
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.mlp = MLP([sum(input_dims), *dimensions, output_dim], activation)

    def forward(self, x0: Tensor, x1: Tensor) -> Tensor:
        return self.mlp(torch.cat([x0, x1], -1))


class MCB(nn.Module):
    """Circular convolution of two count sketches, in the Fourier domain."""

    def __init__(
        self, input_dims: Sequence[int], output_dim: int, mm_dim: int, activ_output: str = "relu"
    ) -> None:
        super().__init__()
        self.activ_output = activ_output
        self.mcb = nn.Module()
        self.mcb.sketch1 = CountSketch(input_dims[0], mm_dim)
        self.mcb.sketch2 = CountSketch(input_dims[1], mm_dim)
        self.mm_dim = mm_dim
        self.linear_out = nn.Linear(mm_dim, output_dim)

    def forward(self, x0: Tensor, x1: Tensor) -> Tensor:
        p, r = self.mcb.sketch1(x0), self.mcb.sketch2(x1)
        z = torch.fft.irfft(torch.fft.rfft(p) * torch.fft.rfft(r), n=self.mm_dim)
        return activate(self.activ_output, self.linear_out(z))


class Tucker(nn.Module):
    """Two projections and a full bilinear core. `shared` has no effect in the reference."""

    def __init__(
        self,
        input_dims: Sequence[int],
        output_dim: int,
        mm_dim: int,
        shared: bool = False,
        normalize: bool = False,
    ) -> None:
        super().__init__()
        self.normalize = normalize
        self.linear0 = nn.Linear(input_dims[0], mm_dim)
        self.linear1 = nn.Linear(input_dims[1], mm_dim)
        self.bilinear = Bilinear(mm_dim, mm_dim, mm_dim)
        self.linear_out = nn.Linear(mm_dim, output_dim)

    def forward(self, x0: Tensor, x1: Tensor) -> Tensor:
        z = self.bilinear(self.linear0(x0), self.linear1(x1))
        if self.normalize:
            z = power_normalize(z)
        return self.linear_out(z)


class Mutan(nn.Module):
    """A core of low rank: one wide map of each side as (rank, mm_dim), multiplied and summed."""

    def __init__(
        self,
        input_dims: Sequence[int],
        output_dim: int,
        mm_dim: int,
        rank: int,
        shared: bool = False,
        normalize: bool = False,
    ) -> None:
        super().__init__()
        self.shared, self.normalize, self.mm_dim, self.rank = shared, normalize, mm_dim, rank
        self.linear0 = nn.Linear(input_dims[0], mm_dim)
        self.merge_linear0 = nn.Linear(mm_dim, mm_dim * rank)
        if not shared:
            self.linear1 = nn.Linear(input_dims[1], mm_dim)
            self.merge_linear1 = nn.Linear(mm_dim, mm_dim * rank)
        self.linear_out = nn.Linear(mm_dim, output_dim)

    def forward(self, x0: Tensor, x1: Tensor) -> Tensor:
        linear1 = self.linear0 if self.shared else self.linear1
        merge_linear1 = self.merge_linear0 if self.shared else self.merge_linear1
        m0 = self.merge_linear0(self.linear0(x0)).unflatten(-1, (self.rank, self.mm_dim))
        m1 = merge_linear1(linear1(x1)).unflatten(-1, (self.rank, self.mm_dim))
        z = (m0 * m1).sum(-2)
        if self.normalize:
            z = power_normalize(z)
        return self.linear_out(z)


class BlockTucker(nn.Module):
    """A full bilinear core for each pair of chunks, in a loop."""

    def __init__(
        self,
        input_dims: Sequence[int],
        output_dim: int,
        mm_dim: int,
        chunks: int,
        pos_norm: str = "before_cat",
    ) -> None:
        super().__init__()
        self.pos_norm, self.sizes = pos_norm, chunk_sizes(mm_dim, chunks)
        self.linear0 = nn.Linear(input_dims[0], mm_dim)
        self.linear1 = nn.Linear(input_dims[1], mm_dim)
        self.bilinears = nn.ModuleList(Bilinear(n, n, n) for n in self.sizes)
        self.linear_out = nn.Linear(mm_dim, output_dim)

    def forward(self, x0: Tensor, x1: Tensor) -> Tensor:
        chunks0 = self.linear0(x0).split(self.sizes, -1)
        chunks1 = self.linear1(x1).split(self.sizes, -1)
        merged = []
        for bilinear, c0, c1 in zip(self.bilinears, chunks0, chunks1, strict=True):
            merged.append(bilinear(c0, c1))
        return self.linear_out(concatenate(merged, self.pos_norm))


class Block(nn.Module):
    """A core of low rank for each pair of chunks, in a loop."""

    def __init__(
        self,
        input_dims: Sequence[int],
        output_dim: int,
        mm_dim: int,
        chunks: int,
        rank: int,
        shared: bool = False,
        pos_norm: str = "before_cat",
    ) -> None:
        super().__init__()
        self.shared, self.pos_norm, self.rank = shared, pos_norm, rank
        self.sizes = chunk_sizes(mm_dim, chunks)
        self.linear0 = nn.Linear(input_dims[0], mm_dim)
        self.merge_linears0 = nn.ModuleList(nn.Linear(n, n * rank) for n in self.sizes)
        if not shared:
            self.linear1 = nn.Linear(input_dims[1], mm_dim)
            self.merge_linears1 = nn.ModuleList(nn.Linear(n, n * rank) for n in self.sizes)
        self.linear_out = nn.Linear(mm_dim, output_dim)

    def forward(self, x0: Tensor, x1: Tensor) -> Tensor:
        linear1 = self.linear0 if self.shared else self.linear1
        merge_linears1 = self.merge_linears0 if self.shared else self.merge_linears1
        chunks0 = self.linear0(x0).split(self.sizes, -1)
        chunks1 = linear1(x1).split(self.sizes, -1)
        merged = []
        for i, size in enumerate(self.sizes):
            m0 = self.merge_linears0[i](chunks0[i]).unflatten(-1, (self.rank, size))
            merged.append(self.join(m0, chunks1[i], merge_linears1[i]))
        return self.linear_out(concatenate(merged, self.pos_norm))

    def join(self, m0: Tensor, c1: Tensor, linear: nn.Module) -> Tensor:
        """sum_r m0_r linear(c1)_r; a question that many regions share goes into the weights."""
        parts = self.rank, m0.shape[-1]
        if m0.ndim != 4:  # rows alone; or all pairs, which are matrix products
            m1 = linear(c1).unflatten(-1, parts)
            return (m0 * m1).sum(-2) if m0.ndim < 4 else torch.einsum("...rd,...rd->...d", m0, m1)
        m0, weight = m0[:, 0], linear.weight.unflatten(0, parts)  # (B, R, D), (R, D, D)
        maps = torch.einsum("rdi,brd->bid", weight, m0)
        offset = torch.einsum("rd,brd->bd", linear.bias.unflatten(0, parts), m0)
        return c1 @ maps + offset[:, None]


def merge_from(arguments: dict[str, Any]) -> nn.Module:
    """A merge from the stored arguments of its authors' class, or of their factory ("type")."""
    arguments = dict(arguments)
    arguments.pop("chunk_sizes", None)
    name = arguments.pop("cls", None) or TYPES[arguments.pop("type")]
    return MERGES[name](**arguments)


MERGES: dict[str, type[nn.Module]] = {
    cls.__name__: cls
    for cls in (LinearSum, ConcatMLP, MLB, MFB, MFH, MCB, Tucker, BlockTucker, Mutan, Block)
}
TYPES = {
    "linear_sum": "LinearSum",
    "cat_mlp": "ConcatMLP",
    "mlb": "MLB",
    "mfb": "MFB",
    "mfh": "MFH",
    "mcb": "MCB",
    "tucker": "Tucker",
    "block_tucker": "BlockTucker",
    "mutan": "Mutan",
    "block": "Block",
}
