"""Flamingo: the image resampled to a few latents, to which words attend through gates."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from vlm.core.features import Features, masked_mean
from vlm.core.validation import check_divides, check_positive
from vlm.fusion.attention import Attention, Context, QueryAttention
from vlm.fusion.base import Fusion
from vlm.fusion.initialize import xavier_uniform


class GatedCrossAttention(Fusion):
    """Words attend to a resampled image through gates, as in Flamingo (arXiv 2204.14198).

    A `PerceiverResampler` turns any number of patches into a few latents (section 2.1); in each
    layer the words attend to them, and the result enters through gates (section 2.2):

        words = words + tanh(alpha) Attention(LayerNorm(words) -> latents)
        words = words + tanh(beta) FFN(LayerNorm(words))
        pooled = W LayerNorm(mean(words)) + b

    Flamingo's gates start closed, alpha = beta = 0, so its frozen language model starts unchanged.
    With a text encoder that is trained too, closed gates slow learning (docs/log.md, 2026-11-30),
    so `first_gate` defaults to 1. Flamingo puts layers of the language model between the gated
    layers; here the text encoder comes first. Words whose image has no real patch stay
    as if the gate alpha were closed. `tokens` are the words.

    Args:
        image_dim, text_dim: widths of the inputs.
        out_dim: width of the latents, the layers and the result.
        latents: number of latents; 64 in the paper.
        resampler_layers: number of layers of the resampler; 6 in the paper.
        num_layers: number of gated layers.
        num_heads: attention heads, of resampler and gated layers; divides `out_dim`.
        dropout: fraction dropped from attention weights and residual branches in training.
        first_gate: value of alpha and beta before training. With 0, as in the paper, training
            starts from the question alone: the gates get a gradient at once, and the image from the
            second step on.

    Example:
        >>> fusion = vlm.fusion.GatedCrossAttention(64, 32, out_dim=48, latents=8)
        >>> fused = fusion(torch.randn(2, 49, 64), torch.randn(2, 7, 32))
        >>> fused, fused.pooled.shape
        (Features(2 x 7 x 48, 7 real), torch.Size([2, 48]))
    """

    lr_factor = 0.3

    def __init__(
        self,
        image_dim: int,
        text_dim: int,
        out_dim: int = 128,
        latents: int = 16,
        resampler_layers: int = 1,
        num_layers: int = 2,
        num_heads: int = 4,
        dropout: float = 0.0,
        first_gate: float = 1.0,
    ) -> None:
        super().__init__(image_dim, text_dim, out_dim)
        check_positive(resampler_layers=resampler_layers, num_layers=num_layers)
        check_divides("out_dim", out_dim, "num_heads", num_heads)
        self.image_projection = nn.Linear(image_dim, out_dim)
        self.text_projection = nn.Linear(text_dim, out_dim)
        self.resampler = PerceiverResampler(out_dim, latents, resampler_layers, num_heads, dropout)
        self.layers = nn.ModuleList(
            GatedLayer(out_dim, num_heads, dropout, first_gate) for _ in range(num_layers)
        )
        self.pool = nn.Sequential(nn.LayerNorm(out_dim), nn.Linear(out_dim, out_dim))
        xavier_uniform(self)

    def prepare(self, image: Features) -> tuple[list[Context], Tensor]:
        patches = self.image_projection(image.zero_padding().tokens)  # (B, P, D)
        latents = self.resampler(patches, image.mask)  # (B, M, D)
        seen = image.mask.any(1, keepdim=True).expand(latents.shape[:2])  # (B, M)
        layers = cast(Iterable[GatedLayer], self.layers)
        return [layer.attention.keys_and_values(latents) for layer in layers], seen

    def fuse(self, prepared: tuple[list[Context], Tensor], text: Features) -> Features:
        contexts, seen = prepared
        words = self.text_projection(text.zero_padding().tokens)  # (B, L, D)
        for layer, context in zip(self.layers, contexts, strict=True):
            words = layer(words, context, seen)
        return Features(words, text.mask, self.pool(masked_mean(words, text.mask)))


class PerceiverResampler(nn.Module):
    """Any number of patches to a fixed number of latents (arXiv 2204.14198, section 2.1, fig. 5).

    (B, P, dim), (B, P) bool -> (B, latents, dim). Each layer, pre-normalised:

        query = LayerNorm(latents);  context = [LayerNorm(patches), query]
        latents = latents + Attention(query -> context)
        latents = latents + FFN(LayerNorm(latents))

    and a LayerNorm at the end. FFN is 4 * dim wide with a squared ReLU (table 5 of the paper). For
    an image without a real patch, the result depends only on the latents.

    Args:
        dim: width of patches and latents.
        latents: number of learned latents.
        num_layers: number of layers.
        num_heads: attention heads; divides `dim`.
        dropout: fraction dropped from attention weights and residual branches in training.

    Example:
        >>> resampler = vlm.fusion.PerceiverResampler(dim=64, latents=8, num_layers=1)
        >>> resampler(torch.randn(2, 49, 64), torch.ones(2, 49, dtype=torch.bool)).shape
        torch.Size([2, 8, 64])
    """

    def __init__(
        self,
        dim: int,
        latents: int = 64,
        num_layers: int = 6,
        num_heads: int = 8,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_positive(latents=latents, num_layers=num_layers)
        check_divides("dim", dim, "num_heads", num_heads)
        self.latents = nn.Parameter(torch.randn(latents, dim))
        self.layers = nn.ModuleList(
            ResamplerLayer(dim, num_heads, dropout) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, patches: Tensor, mask: Tensor) -> Tensor:
        latents = self.latents[None]  # (1, M, D), the same for all images before they look
        mask = torch.cat((mask, mask.new_ones(mask.shape[0], len(self.latents))), 1)  # (B, P + M)
        for layer in self.layers:
            latents = layer(latents, patches, mask)
        return self.norm(latents)


class ResamplerLayer(nn.Module):
    """One layer of `PerceiverResampler`; `mask` (B, P + M) is that of patches and latents."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.patches_norm = nn.LayerNorm(dim)
        self.latents_norm = nn.LayerNorm(dim)
        self.latents_to_patches = QueryAttention(dim, dim, num_heads, dropout)
        self.feedforward = feedforward(dim, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, latents: Tensor, patches: Tensor, mask: Tensor) -> Tensor:
        query = self.latents_norm(latents)
        queries = query.expand(patches.shape[0], -1, -1)  # (B, M, D)
        context = torch.cat((self.patches_norm(patches), queries), 1)  # (B, P + M, D)
        seen = self.latents_to_patches(query, context, mask, patches=patches.shape[1])
        latents = latents + self.dropout(seen)
        return latents + self.feedforward(latents)


class GatedLayer(nn.Module):
    """Gated cross-attention and gated feed-forward (GATED XATTN-DENSE, figure 4).

    (B, L, dim), the keys and values of M latents, (B, M) bool -> (B, L, dim).
    """

    def __init__(self, dim: int, num_heads: int, dropout: float, first_gate: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, dim, num_heads, dropout)
        self.feedforward = feedforward(dim, dropout)
        self.attention_gate = nn.Parameter(torch.full((1,), float(first_gate)))
        self.feedforward_gate = nn.Parameter(torch.full((1,), float(first_gate)))
        self.dropout = nn.Dropout(dropout)

    def forward(self, words: Tensor, context: Context, mask: Tensor) -> Tensor:
        seen = self.dropout(self.attention(self.norm(words), context, mask))
        # The attention's output bias must not enter where there is nothing to see.
        seen = seen.masked_fill(~mask.any(1)[:, None, None], 0)
        words = words + self.attention_gate.tanh() * seen
        return words + self.feedforward_gate.tanh() * self.feedforward(words)


class SquaredReLU(nn.Module):
    """max(0, x)^2 (So et al. 2021, arXiv 2109.08668)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.relu().square()


def feedforward(dim: int, dropout: float) -> nn.Sequential:
    """A pre-normalised feed-forward branch, without its residual connection."""
    return nn.Sequential(
        nn.LayerNorm(dim),
        nn.Linear(dim, 4 * dim),
        SquaredReLU(),
        nn.Linear(4 * dim, dim),
        nn.Dropout(dropout),
    )
