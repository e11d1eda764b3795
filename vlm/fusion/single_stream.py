"""A single transformer over a class token, the words and the patches (ViLT)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vlm.core.features import Features
from vlm.core.validation import check_divides, check_positive
from vlm.fusion.base import Fusion
from vlm.fusion.cross_attention import feedforward
from vlm.fusion.transformer import JointAttention, JointEmbedding


class SingleStream(Fusion):
    """ViLT's transformer (Kim et al. 2021, arXiv 2102.03334, section 3.1, equations 3 to 6).

    The blocks of a vision transformer, pre-normalised, over [class; words; patches], words and
    patches with the embedding of their modality:

        z = LayerNorm(blocks([class; W t + t_type; V v + v_type])),  pooled = tanh(U z_class + b)

    Meant for encoders that only embed words and patches (with their positions), so that this
    transformer does all the encoding. The paper's sizes (ViT-B): out_dim=768, num_layers=12,
    num_heads=12, feedforward_dim=3072, dropout=0.1; the defaults are for small models.

    Args:
        image_dim, text_dim: widths of the inputs.
        out_dim: width of the blocks and of the result.
        num_layers: number of blocks.
        num_heads: attention heads; divides `out_dim`.
        feedforward_dim: hidden width of the feed-forward networks.
        dropout: fraction dropped in training from attention weights, hidden layers and residual
            branches.

    Example:
        >>> fusion = vlm.fusion.SingleStream(image_dim=64, text_dim=32, out_dim=48)
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
        self.class_token = nn.Parameter(0.02 * torch.randn(out_dim))
        self.encoder = PreNormEncoder(out_dim, num_layers, num_heads, feedforward_dim, dropout)
        self.pool = nn.Sequential(nn.Linear(out_dim, out_dim), nn.Tanh())

    def prepare(self, image: Features) -> tuple[Tensor, Tensor]:
        return self.embedding.patches(image), image.mask

    def fuse(self, prepared: tuple[Tensor, Tensor], text: Features) -> Features:
        patches, patches_mask = prepared
        rows, words = text.mask.shape
        first = self.class_token.expand(rows, 1, -1)
        tokens = torch.cat((first, self.embedding(patches, text)), 1)  # (B, 1 + L + P, D)
        mask = torch.cat((text.mask.new_ones(rows, 1), text.mask, patches_mask), 1)
        tokens = self.encoder(tokens, mask, 1, 1 + words)
        return Features(tokens[:, 1:], mask[:, 1:], self.pool(tokens[:, 0]))


class PreNormEncoder(nn.Module):
    """Blocks and the last LayerNorm: (B, N, D), (B, N) bool -> (B, N, D)."""

    def __init__(
        self, dim: int, num_layers: int, num_heads: int, feedforward_dim: int, dropout: float
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            PreNormBlock(dim, num_heads, feedforward_dim, dropout) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, mask: Tensor, first_word: int, first_patch: int) -> Tensor:
        for block in self.blocks:
            tokens = block(tokens, mask, first_word, first_patch)
        return self.norm(tokens)


class PreNormBlock(nn.Module):
    """x = x + attention(LayerNorm(x)), then x = x + FFN(LayerNorm(x)) (equations 4 and 5)."""

    def __init__(self, dim: int, num_heads: int, feedforward_dim: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attention = JointAttention(dim, num_heads, dropout)
        self.dropout = nn.Dropout(dropout)
        self.feedforward = feedforward(dim, feedforward_dim, dropout)

    def forward(self, tokens: Tensor, mask: Tensor, first_word: int, first_patch: int) -> Tensor:
        seen = self.attention(self.norm(tokens), mask, first_word, first_patch)
        tokens = tokens + self.dropout(seen)
        return tokens + self.feedforward(tokens)
