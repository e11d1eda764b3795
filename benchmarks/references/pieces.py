"""What several of the reference merges are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MLP(nn.Module):
    def __init__(self, dims: Sequence[int], activation: str) -> None:
        super().__init__()
        self.activation = activation
        self.linears = nn.ModuleList(nn.Linear(dim, next_dim) for dim, next_dim in pairwise(dims))

    def forward(self, h: Tensor) -> Tensor:
        *hidden, last = self.linears
        for linear in hidden:
            h = activate(self.activation, linear(h))
        return last(h)


class CountSketch(nn.Module):
    """p[k] = sum over the i with h[i] = k of s[i] x[i]."""

    def __init__(self, dim: int, sketch_dim: int) -> None:
        super().__init__()
        self.sketch_dim = sketch_dim
        self.register_buffer("h", torch.randint(sketch_dim, (dim,)))
        self.register_buffer("s", torch.randint(2, (dim,)) * 2.0 - 1)

    def forward(self, x: Tensor) -> Tensor:
        empty = x.new_zeros(len(x), self.sketch_dim)
        return empty.scatter_add(1, self.h.expand(len(x), -1), x * self.s)


def chunk_sizes(dim: int, chunks: int) -> list[int]:
    size = math.ceil(dim / chunks)
    sizes = [size] * (chunks - 1) + [dim - size * (chunks - 1)]
    missing = size - sizes[-1]
    if sizes[-1] < 0:
        sizes = [size] * (chunks - missing) + [size - 1] * missing
    return sizes


def concatenate(chunks: list[Tensor], pos_norm: str) -> Tensor:
    if pos_norm == "before_cat":
        return torch.cat([power_normalize(z) for z in chunks], 1)
    return power_normalize(torch.cat(chunks, 1))


def power_normalize(z: Tensor) -> Tensor:
    """Signed square root, then L2 norm of the last axis. Its gradient at an exact zero is NaN."""
    return F.normalize(z.sign() * z.abs().sqrt(), dim=-1)


def activate(name: str, x: Tensor) -> Tensor:
    return getattr(torch, name)(x) if name else x
