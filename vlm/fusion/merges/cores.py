"""Block-diagonal bilinear maps, the cores of Tucker, MUTAN, BlockTucker and BLOCK.

Both map (..., chunks * size), (..., chunks * size) -> (..., chunks, size): each chunk of x meets
the same chunk of y; leading dimensions broadcast. Work is one batched matrix product over the
chunks; a loop over ranks, and `nn.Bilinear`, are several times slower (benchmarks/fusion.py).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vlm.fusion.merges.elementwise import sum_of_products


class FullCores(nn.Module):
    """z_k = sum_ij x_i T_ijk y_j + b_k in each chunk: a full third-order tensor."""

    def __init__(self, chunks: int, size: int) -> None:
        super().__init__()
        # (C, j, i * k): y is contracted first, since one question often meets many patches.
        self.weight = nn.Parameter(torch.empty(chunks, size, size * size))
        self.bias = nn.Parameter(torch.empty(chunks, size))
        nn.init.uniform_(self.weight, -(3**0.5) / size, 3**0.5 / size)  # keeps the variance
        nn.init.uniform_(self.bias, -(size**-0.5), size**-0.5)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        size = self.bias.shape[1]
        lead = torch.broadcast_shapes(x.shape[:-1], y.shape[:-1])
        x, y = aligned(x, y)
        maps = per_chunk(y, self.weight)  # (C, ..., i * k)
        maps = maps.unflatten(-1, (size, size))  # (C, ..., i, k)
        if one_for_a_row(x, y):
            rows = chunked(x, len(self.bias))  # (C, ..., N, i)
            z = rows @ maps.squeeze(-3)  # (C, ..., N, k)
        else:
            rows = chunked(x, len(self.bias)).unsqueeze(-2)  # (C, ..., 1, i)
            z = (rows @ maps).squeeze(-2)  # (C, ..., k)
        return z.movedim(0, -2).reshape(*lead, *self.bias.shape) + self.bias


class LowRankCores(nn.Module):
    """z_d = sum_r (M x + m)_rd (N y + n)_rd in each chunk: a core whose slices have rank R.

    N, n are M, m if `shared`.
    """

    def __init__(self, chunks: int, size: int, rank: int, shared: bool = False) -> None:
        super().__init__()
        self.rank = rank
        self.x_map = ChunkedLinear(chunks, size, rank * size)
        self.y_map = self.x_map if shared else ChunkedLinear(chunks, size, rank * size)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        chunks, size, _ = self.x_map.weight.shape
        lead = torch.broadcast_shapes(x.shape[:-1], y.shape[:-1])
        x, y = aligned(x, y)
        factor = self.y_map(y).unflatten(-1, (self.rank, size))  # (C, ..., R, D)
        if one_for_a_row(x, y) and size <= self.rank * x.shape[-2]:
            # The question goes into the weights once: a (D, D) map for all its patches.
            weight = self.x_map.weight.unflatten(-1, (self.rank, size))  # (C, D, R, D)
            bias = self.x_map.bias.unflatten(-1, (self.rank, size))  # (C, R, D)
            factor = factor.squeeze(-3)  # (C, ..., R, D)
            maps = torch.einsum("cird,c...rd->c...id", weight, factor)
            offset = torch.einsum("crd,c...rd->c...d", bias, factor).unsqueeze(-2)
            z = chunked(x, chunks) @ maps + offset  # (C, ..., N, D)
        else:
            z = sum_of_products(self.x_map(x).unflatten(-1, (self.rank, size)), factor)
        return z.movedim(0, -2).reshape(*lead, chunks, size)  # (..., C, D)


class ChunkedLinear(nn.Module):
    """A linear layer of its own for each chunk: (..., C * in_dim) -> (C, ..., out_dim)."""

    def __init__(self, chunks: int, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(chunks, in_dim, out_dim))
        self.bias = nn.Parameter(torch.empty(chunks, out_dim))
        for parameter in (self.weight, self.bias):  # as nn.Linear
            nn.init.uniform_(parameter, -(in_dim**-0.5), in_dim**-0.5)

    def forward(self, value: Tensor) -> Tensor:
        return per_chunk(value, self.weight, self.bias)


def aligned(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both with the same number of dimensions, two at least, so that chunks can stand first."""
    ndim = max(x.ndim, y.ndim, 2)
    return x[(None,) * (ndim - x.ndim)], y[(None,) * (ndim - y.ndim)]


def chunked(value: Tensor, chunks: int) -> Tensor:
    """(..., C * D) -> (C, ..., D)."""
    return value.unflatten(-1, (chunks, -1)).movedim(-2, 0)


def per_chunk(value: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(..., C * I), (C, I, O), (C, O) -> (C, ..., O)."""
    rows = chunked(value, len(weight)).flatten(1, -2)  # (C, rows, I)
    made = rows @ weight if bias is None else torch.baddbmm(bias[:, None], rows, weight)
    return made.unflatten(1, value.shape[:-1])


def one_for_a_row(x: Tensor, y: Tensor) -> bool:
    """Whether each y meets a whole row of x: shapes (..., N, D) and (..., 1, D) with N > 1."""
    return y.shape[-2] == 1 < x.shape[-2] and x.shape[:-2] == y.shape[:-2]
