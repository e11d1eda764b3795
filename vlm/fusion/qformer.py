"""Learned queries that gather from the image what the question asks for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from vlm.core.features import Features, masked_mean
from vlm.core.validation import check_divides, check_positive
from vlm.fusion.attention import Attention, Context, QueryAttention
from vlm.fusion.base import Fusion
from vlm.fusion.initialize import xavier_uniform


class QFormer(Fusion):
    """The Q-Former of BLIP-2 (arXiv 2301.12597); its queries read the question, as in InstructBLIP.

    Learned queries and the words share self-attention (section 3.1); in every `cross_every`-th
    layer, the first included, the queries then attend to the patches; queries and words have
    feed-forward networks of their own, 4 * out_dim wide. Layers are post-normalised, as in BERT.
    The words see the image only through the queries.

        x = LayerNorm([words, queries])
        x = LayerNorm(x + SelfAttention(x))
        queries = LayerNorm(queries + Attention(queries -> patches))
        queries = LayerNorm(queries + FFN_q(queries));  words = LayerNorm(words + FFN_w(words))
        pooled = (W mean(words) + a) * (V max(queries) + b)

    `tokens` are queries, then words, as BLIP-2's language model reads them; the queries replace the
    patches. Before a `vlm.heads.LanguageModel`, which reads the question itself, all words are the
    same constant, and the queries read only the image. `pooled` follows BLIP-2's contrastive loss,
    which multiplies a vector of the text with each query and takes the highest value; here the
    products are not summed, and each channel has its own maximum.

    Args:
        image_dim, text_dim: widths of the inputs.
        out_dim: width of the layers and of the result.
        queries: number of learned queries; 32 in the paper.
        num_layers: number of layers; 12 in the paper.
        num_heads: attention heads; divides `out_dim`.
        cross_every: every n-th layer, from the first, attends to the patches; 2 in the paper.
        dropout: fraction dropped from attention weights and residual branches in training.

    Example:
        >>> fusion = vlm.fusion.QFormer(image_dim=64, text_dim=32, out_dim=48, queries=8)
        >>> fused = fusion(torch.randn(2, 49, 64), torch.randn(2, 7, 32))
        >>> fused, fused.pooled.shape
        (Features(2 x 15 x 48, 15 real), torch.Size([2, 48]))
    """

    patches_first: ClassVar[bool] = True
    lr_factor = 0.3

    def __init__(
        self,
        image_dim: int,
        text_dim: int,
        out_dim: int = 128,
        queries: int = 16,
        num_layers: int = 2,
        num_heads: int = 4,
        cross_every: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(image_dim, text_dim, out_dim)
        check_positive(queries=queries, num_layers=num_layers, cross_every=cross_every)
        check_divides("out_dim", out_dim, "num_heads", num_heads)
        self.queries = nn.Parameter(torch.empty(queries, out_dim).normal_(std=0.02))
        self.text_projection = nn.Linear(text_dim, out_dim)
        self.norm = nn.LayerNorm(out_dim)
        self.layers = nn.ModuleList(
            QFormerLayer(
                out_dim, num_heads, 4 * out_dim, None if i % cross_every else image_dim, dropout
            )
            for i in range(num_layers)
        )
        self.words_pool = nn.Linear(out_dim, out_dim)
        self.queries_pool = nn.Linear(out_dim, out_dim)
        xavier_uniform(self)

    def prepare(self, image: Features) -> tuple[list[Context], Tensor]:
        patches = image.zero_padding().tokens  # (B, P, image_dim)
        layers = cast(Iterable[QFormerLayer], self.layers)
        cross = (layer.queries_to_patches for layer in layers)
        return [attend.keys_and_values(patches) for attend in cross if attend], image.mask

    def fuse(self, prepared: tuple[list[Context], Tensor], text: Features) -> Features:
        words = self.text_projection(text.zero_padding().tokens)  # (B, L, D)
        seen = text.mask.new_ones(words.shape[0], len(self.queries))
        mask = torch.cat((text.mask, seen), 1)  # (B, L + Q)
        words, queries = self.encode(words, self.queries[None], mask, *prepared)
        question = self.words_pool(masked_mean(words, text.mask))  # (B, D)
        pooled = question * self.queries_pool(queries.amax(1))
        return Features(torch.cat((queries, words), 1), mask.roll(len(self.queries), 1), pooled)

    def encode(
        self,
        words: Tensor,
        queries: Tensor,
        mask: Tensor,
        contexts: list[Context],
        patches_mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The result of the layers alone; `mask` (B, L + Q) is that of words and queries."""
        words = self.norm(words)
        queries = self.norm(queries).expand(words.shape[0], -1, -1)  # (B, Q, D)
        left = iter(contexts)
        for layer in cast(Iterable[QFormerLayer], self.layers):
            context = next(left) if layer.queries_to_patches else None
            words, queries = layer(words, queries, mask, context, patches_mask)
        return words, queries


class QFormerLayer(nn.Module):
    """One layer of `QFormer`; without cross-attention if `image_dim` is None."""

    def __init__(
        self, dim: int, num_heads: int, feedforward_dim: int, image_dim: int | None, dropout: float
    ) -> None:
        super().__init__()
        self.attention = Attention(dim, dim, num_heads, dropout)
        self.attention_norm = nn.LayerNorm(dim)
        self.queries_to_patches = None
        if image_dim is not None:
            self.queries_to_patches = QueryAttention(dim, image_dim, num_heads, dropout)
            self.patches_norm = nn.LayerNorm(dim)
        self.words_feedforward = feedforward(dim, feedforward_dim, dropout)
        self.words_norm = nn.LayerNorm(dim)
        self.queries_feedforward = feedforward(dim, feedforward_dim, dropout)
        self.queries_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        words: Tensor,
        queries: Tensor,
        mask: Tensor,
        context: Context | None,
        patches_mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        x = torch.cat((words, queries), 1)  # (B, L + Q, D)
        x = self.attention_norm(x + self.dropout(self.attention(x, x, mask)))
        words, queries = x.split((words.shape[1], queries.shape[1]), 1)
        if self.queries_to_patches is not None and context is not None:
            seen = self.queries_to_patches(queries, context, patches_mask)
            queries = self.patches_norm(queries + self.dropout(seen))
        words = self.words_norm(words + self.words_feedforward(words))
        queries = self.queries_norm(queries + self.queries_feedforward(queries))
        return words, queries


def feedforward(dim: int, hidden_dim: int, dropout: float) -> nn.Sequential:
    """BERT's feed-forward branch, without its residual connection and its norm."""
    return nn.Sequential(
        nn.Linear(dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, dim), nn.Dropout(dropout)
    )
