"""What several of the references are made of."""

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
        return x.new_zeros(len(x), self.sketch_dim).index_add(1, self.h, x * self.s)


class Bilinear(nn.Bilinear):
    """As one matrix product: x1 goes into the weights, and the map that it makes takes x0."""

    def forward(self, x0: Tensor, x1: Tensor) -> Tensor:
        maps = F.linear(x1, self.weight.flatten(0, 1)).unflatten(-1, self.weight.shape[:2])
        return (maps @ x0[..., None])[..., 0] + self.bias


def chunk_sizes(dim: int, chunks: int) -> list[int]:
    size = math.ceil(dim / chunks)
    sizes = [size] * (chunks - 1) + [dim - size * (chunks - 1)]
    missing = size - sizes[-1]
    if sizes[-1] < 0:
        sizes = [size] * (chunks - missing) + [size - 1] * missing
    return sizes


def concatenate(chunks: list[Tensor], pos_norm: str) -> Tensor:
    if pos_norm == "before_cat":
        return torch.cat([power_normalize(z) for z in chunks], -1)
    return power_normalize(torch.cat(chunks, -1))


def power_normalize(z: Tensor) -> Tensor:
    """Signed square root, then L2 norm of the last axis. Its gradient at an exact zero is NaN."""
    return F.normalize(z.sign() * z.abs().sqrt(), dim=-1)


def activate(name: str, x: Tensor) -> Tensor:
    return getattr(torch, name)(x) if name else x


class Attention(nn.Module):
    """Multi-head attention; queries, keys and values of one sequence are one matrix product."""

    def __init__(self, dim: int, heads: int, context_dim: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        if context_dim is None:
            self.qkv = nn.Linear(dim, 3 * dim)
        else:
            self.q, self.kv = nn.Linear(dim, dim), nn.Linear(context_dim, 2 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor, context: Tensor | None = None) -> Tensor:
        """(B, N, D), the real tokens (B, M) of what is read, (B, M, context_dim) -> (B, N, D)."""
        if context is None:
            q, k, v = self.split(self.qkv(x), 3)
        else:
            (q,), (k, v) = self.split(self.q(x), 1), self.split(self.kv(context), 2)
        return self.out(attend(q, k, v, mask[:, None, None]).transpose(1, 2).flatten(2))

    def split(self, x: Tensor, parts: int) -> Sequence[Tensor]:
        """(B, N, parts * D) -> (B, heads, N, D / heads) of each part."""
        return x.unflatten(-1, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Scaled dot-product attention to what is real."""
    if q.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(q, k, v, mask)
    # On a CPU the fused kernel's backward pass is several times slower in this precision.
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    return scores.masked_fill(~mask, float("-inf")).softmax(-1) @ v


def look(scores: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the real tokens: (B, N, G), (B, N, D), (B, N) -> (B, G, D)."""
    return scores.masked_fill(~mask[..., None], float("-inf")).softmax(1).mT @ tokens


def mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Of the real tokens: (B, N, D), (B, N) -> (B, D)."""
    shares = mask.to(tokens.dtype) / mask.sum(1, keepdim=True)
    return (shares[:, None] @ tokens)[:, 0]


def highest(tokens: Tensor, mask: Tensor) -> Tensor:
    """Of the real tokens, channel by channel: (..., N, D), (..., N) -> (..., D)."""
    return tokens.masked_fill(~mask[..., None], float("-inf")).amax(-2)
