"""Bilinear attention networks, as defined by ban-vqa (arXiv 1805.07932), after weight
normalisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BCNet(nn.Module):
    """The bilinear connection V[n] * Q[t] of all regions and words, and its three readings."""

    def __init__(self, v_dim: int, q_dim: int, h_dim: int, h_out: int | None, k: int) -> None:
        super().__init__()
        self.h_dim, self.h_out, self.k = h_dim, h_out, k
        rank = h_dim * k
        self.v_net, self.q_net = FCNet(v_dim, rank), FCNet(q_dim, rank)
        if h_out is not None:
            self.h_mat = nn.Parameter(torch.randn(1, h_out, 1, rank))
            self.h_bias = nn.Parameter(torch.randn(1, h_out, 1, 1))

    def forward(self, v: Tensor, q: Tensor) -> Tensor:
        """(B, N, Dv), (B, T, Dq) -> (B, N, T, rank) without h_out, else (B, h_out, N, T)."""
        v, q = self.v_net(v), self.q_net(q)
        if self.h_out is None:
            return v[:, :, None] * q[:, None]
        words = (self.h_mat * q[:, None]).flatten(1, 2)  # (B, h_out * T, rank)
        logits = (v @ words.mT).unflatten(-1, (self.h_out, -1))  # (B, N, h_out, T)
        return logits.transpose(1, 2) + self.h_bias

    def forward_with_weights(self, v: Tensor, q: Tensor, w: Tensor) -> Tensor:
        """(B, N, Dv), (B, T, Dq), (B, N, T) -> (B, h_dim)."""
        f = ((w.mT @ self.v_net(v)) * self.q_net(q)).sum(1)
        return f.unflatten(1, (self.h_dim, self.k)).sum(2) if self.k > 1 else f


class BiAttention(nn.Module):
    """Softmax over all pairs of a region and a word, per glimpse."""

    def __init__(
        self, x_dim: int, y_dim: int, z_dim: int, glimpse: int, k: int = 3, v_mask: bool = True
    ) -> None:
        super().__init__()
        self.v_mask = v_mask
        self.logits = BCNet(x_dim, y_dim, z_dim, glimpse, k)

    def forward(self, v: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, Dv), (B, T, Dq) -> attention and logits, each (B, G, N, T)."""
        logits = self.logits(v, q)
        if self.v_mask:
            logits = logits.masked_fill(~v.any(2)[:, None, :, None], float("-inf"))
        return F.softmax(logits.flatten(2), 2).view_as(logits), logits


class BAN(nn.Module):
    """The residual glimpses, without the counting branch."""

    def __init__(self, v_dim: int, num_hid: int, att_z_dim: int, glimpse: int) -> None:
        super().__init__()
        self.v_att = BiAttention(v_dim, num_hid, att_z_dim, glimpse)
        self.b_net = nn.ModuleList(
            BCNet(v_dim, num_hid, num_hid, None, k=1) for _ in range(glimpse)
        )
        self.q_prj = nn.ModuleList(FCNet(num_hid, num_hid, relu=False) for _ in range(glimpse))

    def forward(self, q: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, H), (B, N, Dv) -> the sum of the words (B, H), the words, the attention."""
        att, _ = self.v_att(v, q)
        for g, (b_net, q_prj) in enumerate(zip(self.b_net, self.q_prj, strict=True)):
            q = q + q_prj(b_net.forward_with_weights(v, q, att[:, g]))[:, None]
        return q.sum(1), q, att


class FCNet(nn.Module):
    """A linear layer and, if wanted, ReLU."""

    def __init__(self, in_dim: int, out_dim: int, relu: bool = True) -> None:
        super().__init__()
        # Number 0 was the dropout.
        last = nn.ReLU() if relu else nn.Identity()
        self.main = nn.Sequential(nn.Identity(), nn.Linear(in_dim, out_dim), last)

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x)
