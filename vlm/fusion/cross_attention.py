"""Cross-modal attention: words attend to patches and patches to words."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from vlm.core.features import Features, masked_max, masked_mean
from vlm.core.validation import check_divides, check_positive
from vlm.fusion.attention import Context, CrossModalAttention
from vlm.fusion.base import Fusion

Prepared = tuple[Tensor, Context]


class CrossAttention(Fusion):
    """Layers in which words attend to patches and, at the same time, patches to words.

    Each layer is residual and pre-normalised: cross-attention, then a feed-forward network, in
    both directions in parallel, as in the co-attention of ViLBERT (arXiv 1908.02265, figure 2b).
    `pooled` is ViLBERT's elementwise product of the two sides (section 3.2), here of the mean word
    and of the maximum over the patches, since an object counts wherever it lies.

    Args:
        image_dim, text_dim: widths of the inputs.
        out_dim: width of the layers and of the result.
        num_layers: number of layers.
        num_heads: attention heads; divides `out_dim`.
        feedforward_dim: hidden width of the feed-forward networks.
        dropout: fraction dropped in training from attention weights, hidden layers and residual
            branches.

    Example:
        >>> fusion = vlm.fusion.CrossAttention(image_dim=64, text_dim=32, out_dim=48, num_layers=2)
        >>> fused = fusion(torch.randn(2, 49, 64), torch.randn(2, 7, 32))
        >>> fused, fused.pooled.shape
        (Features(2 x 56 x 48, 56 real), torch.Size([2, 48]))
    """

    def __init__(
        self,
        image_dim: int,
        text_dim: int,
        out_dim: int = 128,
        num_layers: int = 1,
        num_heads: int = 4,
        feedforward_dim: int = 256,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(image_dim, text_dim, out_dim)
        check_positive(num_layers=num_layers, feedforward_dim=feedforward_dim)
        check_divides("out_dim", out_dim, "num_heads", num_heads)
        self.image_projection = nn.Linear(image_dim, out_dim)
        self.text_projection = nn.Linear(text_dim, out_dim)
        self.layers = nn.ModuleList(
            CrossAttentionLayer(out_dim, num_heads, feedforward_dim, dropout)
            for _ in range(num_layers)
        )
        self.words_pool = nn.Sequential(nn.LayerNorm(out_dim), nn.Linear(out_dim, out_dim))
        self.patches_pool = nn.Sequential(nn.LayerNorm(out_dim), nn.Linear(out_dim, out_dim))

    def prepare(self, image: Features) -> tuple[Tensor, Tensor, Prepared]:
        patches = self.image_projection(image.zero_padding().tokens)  # (B, P, D)
        return patches, image.mask, cast(CrossAttentionLayer, self.layers[0]).prepare(patches)

    def fuse(self, prepared: tuple[Tensor, Tensor, Prepared], text: Features) -> Features:
        patches, mask, inner = prepared
        words = self.text_projection(text.zero_padding().tokens)  # (B, L, D)
        first, *rest = self.layers
        words, patches = first(words, text.mask, patches, mask, inner)
        for layer in rest:
            words, patches = layer(words, text.mask, patches, mask)
        question = self.words_pool(masked_mean(words, text.mask))  # (B, D)
        pooled = question * self.patches_pool(masked_max(patches, mask))
        return Features(torch.cat((words, patches), 1), torch.cat((text.mask, mask), 1), pooled)


class CrossAttentionLayer(nn.Module):
    """One layer of `CrossAttention`: both directions read what the layer before left."""

    def __init__(self, dim: int, num_heads: int, feedforward_dim: int, dropout: float) -> None:
        super().__init__()
        self.words_norm = nn.LayerNorm(dim)
        self.patches_norm = nn.LayerNorm(dim)
        self.words_to_patches = CrossModalAttention(dim, dim, num_heads, dropout)
        self.patches_to_words = CrossModalAttention(dim, dim, num_heads, dropout, words_last=True)
        self.words_feedforward = feedforward(dim, feedforward_dim, dropout)
        self.patches_feedforward = feedforward(dim, feedforward_dim, dropout)
        self.dropout = nn.Dropout(dropout)

    def prepare(self, patches: Tensor) -> Prepared:
        """What the layer makes of the patches alone."""
        normed = self.patches_norm(patches)
        return normed, self.words_to_patches.keys_and_values(normed)

    def forward(
        self,
        words: Tensor,
        words_mask: Tensor,
        patches: Tensor,
        patches_mask: Tensor,
        prepared: Prepared | None = None,
    ) -> tuple[Tensor, Tensor]:
        w, (p, context) = self.words_norm(words), prepared or self.prepare(patches)
        words = words + self.dropout(self.words_to_patches(w, context, patches_mask, words_mask))
        patches = patches + self.dropout(self.patches_to_words(p, w, words_mask, patches_mask))
        return words + self.words_feedforward(words), patches + self.patches_feedforward(patches)


def feedforward(dim: int, hidden_dim: int, dropout: float) -> nn.Sequential:
    """A pre-normalised feed-forward branch, without its residual connection."""
    return nn.Sequential(
        nn.LayerNorm(dim),
        nn.Linear(dim, hidden_dim),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(hidden_dim, dim),
        nn.Dropout(dropout),
    )
