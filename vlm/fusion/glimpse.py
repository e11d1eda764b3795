"""Attention over patches, scored by any merge of patch and question."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, cast

from torch import Tensor, nn

from vlm.core.features import Features, masked_softmax, one_token
from vlm.core.validation import check_positive
from vlm.fusion.attention import RecordsAttention
from vlm.fusion.base import Fusion, Merge, MergeFactory, sized
from vlm.fusion.counting import ObjectCounter
from vlm.fusion.merges import MLB, ConcatMLP, Product

TANH_PERCEPTRON = partial(ConcatMLP, hidden_dims=(256,), activation="tanh")


class GlimpseAttention(Fusion):
    """Attention over the image, guided by the question: one weighted mean of patches per glimpse.

        scores = score(patch_n, question)              (B, P, G)
        glimpse_g = sum_n softmax_n(scores)_g patch_n
        pooled = merge([glimpse_1, ..., glimpse_G], question)

    With MLB, MUTAN or BLOCK as both merges it is the attention of those papers (arXiv 1610.04325,
    section 4; 1705.06676, section 4; 1902.00038, section 4); with a perceptron as score and a
    product as merge it is bottom-up top-down attention (arXiv 1707.07998, equations 3 to 9). One
    merge scores every patch for the question; another merges the question with the attended
    patches. The question is projected once, not once for every patch.

    Args:
        image_dim, text_dim: widths of the inputs.
        score: class or partial that makes the scoring merge. Its out_dim is set to `glimpses`,
            unless `mlp_dim` is given.
        merge: class or partial that makes the last merge, from (glimpses * image_dim, text_dim).
        glimpses: number G of attention maps.
        mlp_dim: width of a hidden layer between the score's own out_dim and the glimpses; None for
            no such layer.
        counter: `ObjectCounter` that counts the objects of the first glimpse; relu(linear(counts))
            is added to `pooled`. The image must then have boxes; None for no counting.

    Example:
        >>> fusion = vlm.fusion.GlimpseAttention(image_dim=64, text_dim=32, glimpses=2)
        >>> fused = fusion(torch.randn(2, 49, 64), torch.randn(2, 7, 32))
        >>> fused, fused.pooled.shape
        (Features(2 x 1 x 256, 1 real), torch.Size([2, 256]))
    """

    def __init__(
        self,
        image_dim: int,
        text_dim: int,
        score: MergeFactory = MLB,
        merge: MergeFactory = Product,
        glimpses: int = 2,
        mlp_dim: int | None = None,
        counter: ObjectCounter | None = None,
    ) -> None:
        check_positive(image_dim=image_dim, text_dim=text_dim, glimpses=glimpses)
        made = merge(glimpses * image_dim, text_dim)
        super().__init__(image_dim, text_dim, made.out_dim)
        self.merge = made
        if mlp_dim is None:
            self.score = sized(score, image_dim, text_dim, glimpses)
            self.perceptron: nn.Module = nn.Identity()
        else:
            check_positive(mlp_dim=mlp_dim)
            self.score = score(image_dim, text_dim)
            self.perceptron = nn.Sequential(
                nn.Linear(self.score.out_dim, mlp_dim), nn.ReLU(), nn.Linear(mlp_dim, glimpses)
            )
        self.attention = PatchAttention()
        self.counter, self.needs_boxes = counter, counter is not None
        if counter is not None:
            self.counts = nn.Linear(counter.objects + 1, self.out_dim)

    def prepare(self, image: Features) -> tuple[Tensor, Tensor, Tensor | None, Any]:
        patches = image.zero_padding().tokens  # (B, P, D)
        boxes = None if self.counter is None else image.boxes
        return patches, image.mask, boxes, self.score.prepare(patches)

    def fuse(self, prepared: tuple[Tensor, Tensor, Tensor | None, Any], text: Features) -> Features:
        patches, mask, boxes, scored = prepared
        scores = self.perceptron(self.score.merge(scored, text.pooled[:, None]))  # (B, P, G)
        glimpses = self.attention(scores, patches, mask)  # (B, G, D)
        pooled = self.merge(glimpses.flatten(1), text.pooled)
        if self.counter is not None and boxes is not None:
            counted = self.counter(scores[..., 0], boxes, mask)
            pooled = pooled + self.counts(counted).relu()
        return one_token(pooled)


class StackedAttention(Fusion):
    """Stacked attention network: the question looks at the image several times.

        u_0 = V question,  v_n = tanh(W patch_n)
        u_k = u_(k-1) + sum_n softmax_n(score_k(v_n, u_(k-1))) v_n

    and `pooled` is the last u (Yang et al. 2016, arXiv 1511.02274, equations 3 and 15 to 22); the
    paper scores by w tanh(W v + V u + b).

    Args:
        image_dim, text_dim: widths of the inputs.
        out_dim: width of v, u and the result.
        hops: number of looks at the image.
        score: class or partial that makes the merge of each look; its out_dim is set to 1. None for
            the paper's perceptron, a `ConcatMLP` with one hidden layer of 256 and tanh.

    Example:
        >>> fusion = vlm.fusion.StackedAttention(image_dim=64, text_dim=32, out_dim=48, hops=2)
        >>> fused = fusion(torch.randn(2, 49, 64), torch.randn(2, 7, 32))
        >>> fused, fused.pooled.shape
        (Features(2 x 1 x 48, 1 real), torch.Size([2, 48]))
    """

    def __init__(
        self,
        image_dim: int,
        text_dim: int,
        out_dim: int = 256,
        hops: int = 2,
        score: MergeFactory | None = None,
    ) -> None:
        super().__init__(image_dim, text_dim, out_dim)
        check_positive(hops=hops)
        score = TANH_PERCEPTRON if score is None else score
        self.image_projection = nn.Sequential(nn.Linear(image_dim, out_dim), nn.Tanh())
        self.text_projection = nn.Linear(text_dim, out_dim)
        self.scores = nn.ModuleList(sized(score, out_dim, out_dim, 1) for _ in range(hops))
        self.looks = nn.ModuleList(PatchAttention() for _ in range(hops))

    def prepare(self, image: Features) -> tuple[Tensor, Tensor, list[Any]]:
        patches = self.image_projection(image.zero_padding().tokens)  # (B, P, D)
        merges = cast(Iterable[Merge], self.scores)
        return patches, image.mask, [score.prepare(patches) for score in merges]

    def fuse(self, prepared: tuple[Tensor, Tensor, list[Any]], text: Features) -> Features:
        patches, mask, scored = prepared
        state = self.text_projection(text.pooled)  # (B, D)
        merges = cast(Iterable[Merge], self.scores)
        for score, known, look in zip(merges, scored, self.looks, strict=True):
            scores = score.merge(known, state[:, None])  # (B, P, 1)
            state = state + look(scores, patches, mask).squeeze(1)
        return one_token(state)


class PatchAttention(RecordsAttention):
    """(B, P, G) scores, (B, P, D) patches, (B, P) mask -> (B, G, D) attended patches."""

    def forward(self, scores: Tensor, patches: Tensor, mask: Tensor) -> Tensor:
        weights = masked_softmax(scores.mT, mask[:, None])  # (B, G, P)
        if self.recorder is not None:
            self.recorder.append(weights)
        return weights @ patches
