"""Bilinear attention networks: low-rank attention to all pairs of a word and a patch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from vlm.core.features import Features, masked_max, masked_softmax
from vlm.core.validation import check_positive
from vlm.fusion.attention import RecordsAttention
from vlm.fusion.base import Fusion
from vlm.fusion.counting import ObjectCounter

Prepared = tuple[Tensor, list[Tensor], Tensor, Tensor | None]


class BAN(Fusion):
    """Bilinear attention network (Kim et al. 2018, arXiv 1805.07932, section 3).

    G attention maps over all pairs of a word and a patch are computed once. Then each glimpse adds
    the pairs that its map joins to every word:

        words <- words + P_g sum_tn A_gtn (relu(Q_g word_t) * relu(V_g patch_n))

    `pooled` is the sum of the words and `tokens` are the words.

    Args:
        image_dim, text_dim: widths of the inputs.
        out_dim: width of the words in the layers and of the result; the rank of the pooling.
        glimpses: number of attention maps, G, and of residual steps.
        rank_factor: rank of the attention maps in units of `out_dim` (3 in the paper).
        dropout: fraction dropped in training from the patches and from the output of each glimpse.
        counter: `ObjectCounter` that counts the objects of each glimpse; the logit of a patch is
            its highest over the words. relu(linear_g(counts)) is added to every word with the
            glimpse. The image must then have boxes; None for no counting.

    Example:
        >>> fusion = vlm.fusion.BAN(image_dim=64, text_dim=32, out_dim=48, glimpses=2)
        >>> fused = fusion(torch.randn(2, 49, 64), torch.randn(2, 7, 32))
        >>> fused, fused.pooled.shape
        (Features(2 x 7 x 48, 7 real), torch.Size([2, 48]))
    """

    lr_factor = 0.3

    def __init__(
        self,
        image_dim: int,
        text_dim: int,
        out_dim: int = 256,
        glimpses: int = 4,
        rank_factor: int = 3,
        dropout: float = 0.0,
        counter: ObjectCounter | None = None,
    ) -> None:
        super().__init__(image_dim, text_dim, out_dim)
        check_positive(glimpses=glimpses, rank_factor=rank_factor)
        self.text_projection = nn.Linear(text_dim, out_dim)
        self.attention = BilinearAttention(image_dim, out_dim, rank_factor * out_dim, glimpses)
        self.poolings = nn.ModuleList(
            BilinearPooling(image_dim, out_dim, out_dim, out_dim) for _ in range(glimpses)
        )
        self.dropout = nn.Dropout(dropout)
        self.counter, self.needs_boxes = counter, counter is not None
        if counter is not None:
            self.counts = nn.ModuleList(
                nn.Linear(counter.objects + 1, out_dim) for _ in range(glimpses)
            )

    def prepare(self, image: Features) -> Prepared:
        patches = self.dropout(image.zero_padding().tokens)  # (B, P, image_dim)
        poolings = cast(Iterable[BilinearPooling], self.poolings)
        scored = self.attention.image_projection(patches)  # (B, P, R)
        pooled = [pooling.image_projection(patches) for pooling in poolings]  # G times (B, P, D)
        boxes = None if self.counter is None else image.boxes
        return scored, pooled, image.mask, boxes

    def fuse(self, prepared: Prepared, text: Features) -> Features:
        scored, pooled, mask, boxes = prepared
        words = self.text_projection(text.zero_padding().tokens)  # (B, L, D)
        # Both (B, G, L, P).
        weights, logits = self.attention(words, text.mask, scored, mask)
        for number, (pooling, patches, glimpse) in enumerate(
            zip(self.poolings, pooled, weights.unbind(1), strict=True)
        ):
            added = self.dropout(pooling(words, patches, glimpse))  # (B, D)
            if self.counter is not None and boxes is not None:
                counted = self.counter(masked_max(logits[:, number], text.mask), boxes, mask)
                added = added + self.counts[number](counted).relu()
            words = words + added[:, None]
        return Features(words, text.mask, words.masked_fill(~text.mask[..., None], 0).sum(1))


class BilinearAttention(RecordsAttention):
    """Low-rank bilinear attention maps, one softmax over all pairs of a word and a patch.

    logit_gtn = sum_r h_gr relu(Q word_t)_r relu(V patch_n)_r. A bias per glimpse would cancel in
    the softmax. Records (B, glimpses, words, patches).
    """

    def __init__(self, image_dim: int, text_dim: int, rank: int, glimpses: int) -> None:
        super().__init__()
        self.image_projection = nn.Sequential(nn.Linear(image_dim, rank), nn.ReLU())
        self.text_projection = nn.Sequential(nn.Linear(text_dim, rank), nn.ReLU())
        self.glimpses = nn.Parameter(torch.randn(glimpses, rank))  # h

    def forward(
        self, words: Tensor, words_mask: Tensor, patches: Tensor, patches_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The maps (B, G, L, P) and their logits, of patches that are projected (B, P, R)."""
        logits = self.logits(words, patches)
        real = words_mask[:, None, :, None] & patches_mask[:, None, None, :]  # (B, 1, L, P)
        weights = masked_softmax(logits.flatten(2), real.flatten(2)).view_as(logits)
        if self.recorder is not None:
            self.recorder.append(weights)
        return weights, logits

    def logits(self, words: Tensor, patches: Tensor) -> Tensor:
        """(B, L, text_dim), projected patches (B, P, R) -> (B, G, L, P)."""
        q = self.text_projection(words)[:, None]  # (B, 1, L, R)
        # h meets the words first: they are fewer than the patches, and one product does the rest.
        scaled = q * self.glimpses.to(q.dtype)[:, None]  # (B, G, L, R)
        return (scaled.flatten(1, 2) @ patches.mT).unflatten(1, scaled.shape[1:3])


class BilinearPooling(nn.Module):
    """All pairs of a word and a patch in one vector, weighted by a map.

    P sum_tn A_tn (relu(Q word_t) * relu(V patch_n)).
    """

    def __init__(self, image_dim: int, text_dim: int, rank: int, out_dim: int) -> None:
        super().__init__()
        self.image_projection = nn.Sequential(nn.Linear(image_dim, rank), nn.ReLU())
        self.text_projection = nn.Sequential(nn.Linear(text_dim, rank), nn.ReLU())
        self.out = nn.Linear(rank, out_dim)

    def forward(self, words: Tensor, patches: Tensor, weights: Tensor) -> Tensor:
        """(B, L, text_dim), projected patches (B, P, R), (B, L, P) -> (B, out_dim)."""
        attended = weights @ patches  # (B, L, R)
        return self.out((attended * self.text_projection(words)).sum(1))
