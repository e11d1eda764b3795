"""The cross-modality encoder of LXMERT: cross-attention both ways, then self-attention in each."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from vlm.core.features import Features, masked_max, masked_mean
from vlm.core.validation import check_divides, check_positive
from vlm.fusion.attention import Attention, Context, CrossModalAttention
from vlm.fusion.base import Fusion
from vlm.fusion.transformer import AddNorm, PostNormFeedForward


class LXMERT(Fusion):
    """LXMERT's cross-modality encoder (Tan and Bansal 2019, arXiv 1908.07490, section 2.2).

    In each layer, words and patches attend to each other at the same time; then each side attends
    to itself and passes through its feed-forward network. All three steps are post-normalised. Each
    direction has its own weights, as in ViLBERT (Lu et al. 2019, arXiv 1908.02265, figure 2b).
    vlm's encoders give no class tokens, so `pooled` is ViLBERT's product of the two sides (section
    3.2), made from the mean word and the maximum over the patches:

        pooled = (W mean(words) + b) * (V max(patches) + c)

    LXMERT's sizes: out_dim=768, num_layers=5, num_heads=12, feedforward_dim=3072, dropout=0.1; the
    defaults are for small models.

    Args:
        image_dim, text_dim: widths of the inputs.
        out_dim: width of the layers and of the result.
        num_layers: number of layers.
        num_heads: attention heads; divides `out_dim`.
        feedforward_dim: hidden width of the feed-forward networks.
        dropout: fraction dropped from attention weights and residual branches in training.

    Example:
        >>> fusion = vlm.fusion.LXMERT(image_dim=64, text_dim=32, out_dim=48)
        >>> fused = fusion(torch.randn(2, 49, 64), torch.randn(2, 7, 32))
        >>> fused, fused.pooled.shape
        (Features(2 x 56 x 48, 56 real), torch.Size([2, 48]))
    """

    lr_factor = 0.3

    def __init__(
        self,
        image_dim: int,
        text_dim: int,
        out_dim: int = 128,
        num_layers: int = 2,
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
            CrossModalityLayer(out_dim, num_heads, feedforward_dim, dropout)
            for _ in range(num_layers)
        )
        self.words_pool = nn.Linear(out_dim, out_dim)
        self.patches_pool = nn.Linear(out_dim, out_dim)

    def prepare(self, image: Features) -> tuple[Tensor, Tensor, Context]:
        patches = self.image_projection(image.zero_padding().tokens)  # (B, P, D)
        return patches, image.mask, cast(CrossModalityLayer, self.layers[0]).prepare(patches)

    def fuse(self, prepared: tuple[Tensor, Tensor, Context], text: Features) -> Features:
        patches, mask, inner = prepared
        words = self.text_projection(text.zero_padding().tokens)  # (B, L, D)
        first, *rest = self.layers
        words, patches = first(words, text.mask, patches, mask, inner)
        for layer in rest:
            words, patches = layer(words, text.mask, patches, mask)
        question = self.words_pool(masked_mean(words, text.mask))  # (B, D)
        pooled = question * self.patches_pool(masked_max(patches, mask))
        return Features(torch.cat((words, patches), 1), torch.cat((text.mask, mask), 1), pooled)


class CrossModalityLayer(nn.Module):
    """One layer of `LXMERT`; both directions read what the layer before left."""

    def __init__(self, dim: int, num_heads: int, feedforward_dim: int, dropout: float) -> None:
        super().__init__()
        self.words_to_patches = CrossModalAttention(dim, dim, num_heads, dropout)
        self.patches_to_words = CrossModalAttention(dim, dim, num_heads, dropout, words_last=True)
        self.words_cross_norm = AddNorm(dim, dropout)
        self.patches_cross_norm = AddNorm(dim, dropout)
        self.words_self = Attention(dim, dim, num_heads, dropout)
        self.patches_self = Attention(dim, dim, num_heads, dropout)
        self.words_self_norm = AddNorm(dim, dropout)
        self.patches_self_norm = AddNorm(dim, dropout)
        self.words_feedforward = PostNormFeedForward(dim, feedforward_dim, dropout, nn.GELU())
        self.patches_feedforward = PostNormFeedForward(dim, feedforward_dim, dropout, nn.GELU())

    def prepare(self, patches: Tensor) -> Context:
        """What the layer makes of the patches alone."""
        return self.words_to_patches.keys_and_values(patches)

    def forward(
        self,
        words: Tensor,
        words_mask: Tensor,
        patches: Tensor,
        patches_mask: Tensor,
        prepared: Context | None = None,
    ) -> tuple[Tensor, Tensor]:
        context = patches if prepared is None else prepared
        seen = self.words_to_patches(words, context, patches_mask, words_mask)
        asked = self.patches_to_words(patches, words, words_mask, patches_mask)
        words = self.words_cross_norm(words, seen)
        patches = self.patches_cross_norm(patches, asked)
        words = self.words_self_norm(words, self.words_self(words, words, words_mask))
        patches = self.patches_self_norm(patches, self.patches_self(patches, patches, patches_mask))
        return self.words_feedforward(words), self.patches_feedforward(patches)
