"""Merged attention: one transformer over the words and the patches, with one set of weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vlm.core.features import Features, masked_mean
from vlm.core.validation import check_divides, check_positive
from vlm.fusion.base import Fusion
from vlm.fusion.transformer import AddNorm, JointAttention, JointEmbedding, PostNormFeedForward


class MergedAttention(Fusion):
    """METER's merged attention (Dou et al. 2021, arXiv 2111.02387).

    Words and patches are projected to one width, marked by a modality embedding and put in one
    sequence, which passes through post-normalised layers of self-attention and feed-forward
    networks with the same weights for both modalities. METER joins the two pooled vectors:

        pooled = tanh(W [mean(words); mean(patches)] + b)

    METER pools the class tokens or, for images without one, the mean patch; vlm's encoders give no
    class tokens. The layers are BERT's. METER uses the sizes of BERT-base: out_dim=768,
    num_heads=12, feedforward_dim=3072, dropout=0.1; the defaults are for small models.
    `SingleStream` is a pre-norm relative with a class token, which does all the encoding.

    Args:
        image_dim, text_dim: widths of the inputs.
        out_dim: width of the layers and of the result.
        num_layers: number of layers.
        num_heads: attention heads; divides `out_dim`.
        feedforward_dim: hidden width of the feed-forward networks.
        dropout: fraction dropped from attention weights and residual branches in training.

    Example:
        >>> fusion = vlm.fusion.MergedAttention(image_dim=64, text_dim=32, out_dim=48)
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
        self.embedding = JointEmbedding(image_dim, text_dim, out_dim)
        self.layers = nn.ModuleList(
            MergedLayer(out_dim, num_heads, feedforward_dim, dropout) for _ in range(num_layers)
        )
        self.pool = nn.Linear(2 * out_dim, out_dim)

    def prepare(self, image: Features) -> tuple[Tensor, Tensor]:
        return self.embedding.patches(image), image.mask

    def fuse(self, prepared: tuple[Tensor, Tensor], text: Features) -> Features:
        patches, patches_mask = prepared
        first_patch = text.mask.shape[1]
        tokens = self.embedding(patches, text)  # (B, L + P, D)
        mask = torch.cat((text.mask, patches_mask), 1)
        for layer in self.layers:
            tokens = layer(tokens, mask, first_patch)
        means = (
            masked_mean(tokens[:, :first_patch], text.mask),
            masked_mean(tokens[:, first_patch:], patches_mask),
        )
        return Features(tokens, mask, self.pool(torch.cat(means, -1)).tanh())


class MergedLayer(nn.Module):
    """One layer of `MergedAttention`, as in BERT."""

    def __init__(self, dim: int, num_heads: int, feedforward_dim: int, dropout: float) -> None:
        super().__init__()
        self.attention = JointAttention(dim, num_heads, dropout)
        self.attention_norm = AddNorm(dim, dropout)
        self.feedforward = PostNormFeedForward(dim, feedforward_dim, dropout, nn.GELU())

    def forward(self, tokens: Tensor, mask: Tensor, first_patch: int) -> Tensor:
        seen = self.attention(tokens, mask, 0, first_patch)
        return self.feedforward(self.attention_norm(tokens, seen))
