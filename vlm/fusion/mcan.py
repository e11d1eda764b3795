"""Deep modular co-attention (MCAN): words attend to words, patches to patches and to words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, cast

import torch
from torch import Tensor, nn

from vlm.core.features import Features, masked_softmax
from vlm.core.validation import check_divides, check_positive
from vlm.fusion.attention import Attention, CrossModalAttention, RecordsAttention
from vlm.fusion.base import Fusion
from vlm.fusion.transformer import AddNorm, PostNormFeedForward

Cascade = Literal["encoder_decoder", "stacking"]


class MCAN(Fusion):
    """Deep modular co-attention network (Yu et al. 2019, arXiv 1906.10770, section 4).

    Self-attention (SA) layers read the question, self- and guided-attention (SGA) layers read the
    image under the guidance of the question. Attentional reduction makes one vector of each side:

        pooled = LayerNorm(reduce(words) + reduce(patches))                       (section 4.3)

    `tokens` are the words and patches after the linear map of their reduction: what the reduction
    would return if one token had all the attention. The paper's sizes for VQA v2 are out_dim=1024,
    dim=512, num_layers=6, num_heads=8, dropout=0.1; the defaults are for small models.

    Args:
        image_dim, text_dim: widths of the inputs.
        out_dim: width of the result.
        dim: width of the layers; their feed-forward networks are four times as wide inside.
        num_layers: number of SA layers and of SGA layers.
        num_heads: attention heads; divides `dim`.
        cascade: "encoder_decoder": every SGA layer is guided by the last SA layer. "stacking":
            each by the SA layer of its own depth.
        dropout: fraction dropped in training from attention weights, hidden layers and residual
            branches.

    Example:
        >>> fusion = vlm.fusion.MCAN(image_dim=64, text_dim=32, out_dim=48, dim=32)
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
        dim: int = 128,
        num_layers: int = 2,
        num_heads: int = 4,
        cascade: Cascade = "encoder_decoder",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(image_dim, text_dim, out_dim)
        check_divides("dim", dim, "num_heads", num_heads)
        self.image_projection = nn.Linear(image_dim, dim)
        self.text_projection = nn.Linear(text_dim, dim)
        self.co_attention = ModularCoAttention(
            dim, num_layers, num_heads, 4 * dim, cascade, dropout
        )
        self.words_reduction = AttentionalReduction(dim, out_dim, dim, dropout=dropout)
        self.patches_reduction = PatchReduction(dim, out_dim, dim, dropout=dropout)
        self.norm = nn.LayerNorm(out_dim)

    def prepare(self, image: Features) -> tuple[Tensor, Tensor]:
        patches = self.image_projection(image.zero_padding().tokens)  # (B, P, dim)
        return self.co_attention.prepare(patches, image.mask), image.mask

    def fuse(self, prepared: tuple[Tensor, Tensor], text: Features) -> Features:
        inner, mask = prepared
        words = self.text_projection(text.zero_padding().tokens)  # (B, L, dim)
        words, patches = self.co_attention(words, text.mask, inner, mask)
        question = self.words_reduction(words, text.mask)  # (B, out_dim)
        pooled = self.norm(question + self.patches_reduction(patches, mask))
        tokens = self.words_reduction.each(words), self.patches_reduction.each(patches)
        return Features(torch.cat(tokens, 1), torch.cat((text.mask, mask), 1), pooled)


class ModularCoAttention(nn.Module):
    """The cascade of SA and SGA layers (section 4.2, figure 5)."""

    def __init__(
        self,
        dim: int,
        num_layers: int,
        num_heads: int,
        feedforward_dim: int,
        cascade: Cascade,
        dropout: float,
    ) -> None:
        super().__init__()
        check_positive(num_layers=num_layers)
        self.cascade = cascade
        self.words_layers = nn.ModuleList(
            SelfAttention(dim, num_heads, feedforward_dim, dropout) for _ in range(num_layers)
        )
        self.patches_layers = nn.ModuleList(
            SelfGuidedAttention(dim, num_heads, feedforward_dim, dropout) for _ in range(num_layers)
        )

    def prepare(self, patches: Tensor, mask: Tensor) -> Tensor:
        """The first layer's self-attention, before the question is known."""
        return cast(SelfGuidedAttention, self.patches_layers[0]).prepare(patches, mask)

    def forward(
        self, words: Tensor, words_mask: Tensor, prepared: Tensor, patches_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Words and patches after the cascade; `prepared` is what `prepare` made of the patches."""
        guides = []
        for layer in self.words_layers:
            words = layer(words, words_mask)
            guides.append(words)
        if self.cascade == "encoder_decoder":
            guides = [words] * len(guides)
        first, *rest = cast(Iterable[SelfGuidedAttention], self.patches_layers)
        patches = first(prepared, patches_mask, guides[0], words_mask)
        for layer, guide in zip(rest, guides[1:], strict=True):
            patches = layer(layer.prepare(patches, patches_mask), patches_mask, guide, words_mask)
        return words, patches


class SelfAttention(nn.Module):
    """SA (figure 2a): self-attention, then a feed-forward network, both post-normalised."""

    def __init__(self, dim: int, num_heads: int, feedforward_dim: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(dim, dim, num_heads, dropout)
        self.attention_norm = AddNorm(dim, dropout)
        self.feedforward = feedforward(dim, feedforward_dim, dropout)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        tokens = self.attention_norm(tokens, self.attention(tokens, tokens, mask))
        return self.feedforward(tokens)


class SelfGuidedAttention(nn.Module):
    """SGA: the patches attend to each other, then to the words; then a feed-forward network."""

    def __init__(self, dim: int, num_heads: int, feedforward_dim: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(dim, dim, num_heads, dropout)
        self.attention_norm = AddNorm(dim, dropout)
        self.guided_attention = CrossModalAttention(dim, dim, num_heads, dropout, words_last=True)
        self.guided_norm = AddNorm(dim, dropout)
        self.feedforward = feedforward(dim, feedforward_dim, dropout)

    def prepare(self, patches: Tensor, mask: Tensor) -> Tensor:
        """The patches after their self-attention."""
        return self.attention_norm(patches, self.attention(patches, patches, mask))

    def forward(
        self, prepared: Tensor, patches_mask: Tensor, words: Tensor, words_mask: Tensor
    ) -> Tensor:
        guided = self.guided_attention(prepared, words, words_mask, patches_mask)
        return self.feedforward(self.guided_norm(prepared, guided))


def feedforward(dim: int, hidden_dim: int, dropout: float) -> PostNormFeedForward:
    activation = nn.Sequential(nn.ReLU(), nn.Dropout(dropout))
    return PostNormFeedForward(dim, hidden_dim, dropout, activation)


class AttentionalReduction(nn.Module):
    """Reduce tokens to one vector by learned attention: (B, N, dim), (B, N) bool -> (B, out_dim).

        a_g = softmax over the tokens of MLP_g(x),  y = W [sum_n a_1n x_n; ...] + b

    The paper (section 4.3) has one glimpse; more give several weighted sums, concatenated before
    W, as in the authors' code. Without a real token the result is b.

    Args:
        dim: width of the tokens.
        out_dim: width of the result.
        hidden_dim: hidden width of the MLP.
        glimpses: number of weighted sums.
        dropout: fraction of the hidden layer dropped in training, in [0, 1).

    Example:
        >>> reduction = vlm.fusion.AttentionalReduction(dim=64, out_dim=48, hidden_dim=32)
        >>> reduction(torch.randn(2, 7, 64), torch.ones(2, 7, dtype=torch.bool)).shape
        torch.Size([2, 48])
    """

    def __init__(
        self, dim: int, out_dim: int, hidden_dim: int, glimpses: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        check_positive(dim=dim, out_dim=out_dim, hidden_dim=hidden_dim, glimpses=glimpses)
        # The last layer needs no bias: the softmax would cancel it.
        self.score = nn.Sequential(
            nn.Linear(dim, hidden_dim),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_dim, glimpses, bias=False),
        )
        self.merge = nn.Linear(glimpses * dim, out_dim)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        return self.reduce(tokens, mask)[0]

    def reduce(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The result, and the attention (B, glimpses, N)."""
        shares = masked_softmax(self.score(tokens).mT, mask[:, None])  # (B, G, N)
        return self.merge((shares @ tokens).flatten(1)), shares

    def each(self, tokens: Tensor) -> Tensor:
        """The result of each token alone: (B, N, dim) -> (B, N, out_dim)."""
        return self.merge(tokens.repeat(1, 1, self.merge.in_features // tokens.shape[-1]))


class PatchReduction(AttentionalReduction, RecordsAttention):
    """`AttentionalReduction` of patches, whose attention `record_attention` can see."""

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        reduced, shares = self.reduce(tokens, mask)
        if self.recorder is not None:
            self.recorder.append(shares)
        return reduced
