"""MuRel: regions that reason in pairs, step by step, without attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from vlm.core.features import Features, masked_max, masked_mean
from vlm.core.validation import check_positive
from vlm.fusion.attention import RecordsAttention
from vlm.fusion.base import Fusion, Merge, MergeFactory, sized
from vlm.fusion.merges import Block

Aggregation = Literal["max", "mean"]
AGGREGATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "max": masked_max,
    "mean": masked_mean,
}


class MuRel(Fusion):
    """Merges each region with the question, then with every other region, in repeated steps.

        s_i = merge(m_i, question)
        e_i = max_j [pairwise_merge(b_j, b_i) + pairwise_merge(s_j, s_i)]       # j = i included
        m_i <- m_i + s_i + e_i                                                  # `steps` times
        pooled = last_merge(max_i m_i, question)

    m_i are the regions (patches) and b_i their boxes (Cadene et al. 2019, arXiv 1902.09487, section
    3). All steps share their weights; each of the four merges has its own. `tokens` are the
    regions. Time and memory grow with the square of their number, so use it for tens of regions
    rather than hundreds. `record_attention` gives, as one glimpse, the share of the pooled features
    for which each region has the maximum.

    Args:
        image_dim, text_dim: widths of the inputs.
        out_dim: width of the regions in the steps and of the result; regions of another width are
            first projected to it.
        steps: number of repetitions.
        merge: class or partial that makes the merge of a region and the question. Its `out_dim` is
            set here.
        pairwise_merge: class or partial that makes the merges of two regions and of their boxes. If
            the image has no boxes, each region counts as the whole image (0, 0, 1, 1).
        aggregation: how to combine all regions j that are paired with region i.
        last_merge: class or partial that makes the last merge, of all regions and the question;
            None for one like `merge`.

    Example:
        >>> from functools import partial
        >>> block = partial(vlm.fusion.Block, hidden_dim=32, chunks=4)
        >>> fusion = vlm.fusion.MuRel(64, 32, out_dim=64, merge=block, pairwise_merge=block)
        >>> regions = vlm.Features(torch.randn(2, 9, 64), boxes=torch.rand(2, 9, 4))
        >>> fusion(regions, torch.randn(2, 7, 32))
        Features(2 x 9 x 64, 9 real)
    """

    def __init__(
        self,
        image_dim: int,
        text_dim: int,
        out_dim: int = 256,
        steps: int = 3,
        merge: MergeFactory = Block,
        pairwise_merge: MergeFactory = Block,
        aggregation: Aggregation = "max",
        last_merge: MergeFactory | None = None,
    ) -> None:
        super().__init__(image_dim, text_dim, out_dim)
        check_positive(steps=steps)
        self.steps = steps
        same = image_dim == out_dim
        self.projection = nn.Identity() if same else nn.Linear(image_dim, out_dim)
        pairwise = PairwiseRelation(out_dim, pairwise_merge, aggregation)
        self.cell = MuRelCell(sized(merge, out_dim, text_dim, out_dim), pairwise)
        self.pool = MaxOverRegions()
        self.merge = sized(last_merge or merge, out_dim, text_dim, out_dim)

    def prepare(self, image: Features) -> tuple[Tensor, Tensor, Tensor]:
        regions = self.projection(image.zero_padding().tokens)  # (B, P, D)
        positions = self.cell.pairwise.positions(
            boxes_of(image)
        )  # (B, P, P, D), or (1, 1, 1, D) without boxes
        return regions, image.mask, positions.expand(regions.shape[0], -1, -1, -1)

    def fuse(self, prepared: tuple[Tensor, Tensor, Tensor], text: Features) -> Features:
        regions, mask, positions = prepared
        for _ in range(self.steps):
            regions = self.cell(regions, text.pooled, positions, mask)
        pooled = self.merge(self.pool(regions, mask), text.pooled)  # (B, D)
        return Features(regions, mask, pooled)


class MuRelCell(nn.Module):
    """One step: (B, P, D) regions -> (B, P, D)."""

    def __init__(self, merge: Merge, pairwise: PairwiseRelation) -> None:
        super().__init__()
        self.merge, self.pairwise = merge, pairwise

    def forward(self, regions: Tensor, question: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        return regions + self.pairwise(self.merge(regions, question[:, None]), positions, mask)


class PairwiseRelation(nn.Module):
    """Regions (B, P, dim) plus what the pairs with all regions tell about each."""

    def __init__(self, dim: int, merge: MergeFactory, aggregation: Aggregation) -> None:
        super().__init__()
        self.boxes_merge = sized(merge, 4, 4, dim)
        self.regions_merge = sized(merge, dim, dim, dim)
        self.aggregate = AGGREGATIONS[aggregation]

    def positions(self, boxes: Tensor) -> Tensor:
        """What the boxes alone tell, the same in every step: (B, P, 4) -> (B, P, P, dim)."""
        return self.boxes_merge(boxes[:, None], boxes[:, :, None])

    def forward(self, regions: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        # Row i: how the regions j (x) matter to region i (y).
        relations = positions + self.regions_merge(regions[:, None], regions[:, :, None])
        return regions + self.aggregate(relations, mask[:, None])


class MaxOverRegions(RecordsAttention):
    """(B, P, D), (B, P) bool -> (B, D); records the share of features won, (B, 1, P)."""

    def forward(self, regions: Tensor, mask: Tensor) -> Tensor:
        highest = masked_max(regions, mask)
        if self.recorder is not None:
            won = ((regions == highest[:, None]) & mask[..., None]).to(regions.dtype)
            won = won / won.sum(1, keepdim=True).clamp(min=1)  # equal regions share
            self.recorder.append(won.mean(2)[:, None])
        return highest


def boxes_of(image: Features) -> Tensor:
    """The boxes (B, P, 4) with zeros in the padding, or the whole image (1, 1, 4) for all."""
    if image.boxes is None:
        return image.tokens.new_tensor([0.0, 0.0, 1.0, 1.0])[None, None]
    return image.boxes.masked_fill(~image.mask[..., None], 0).to(image.tokens.dtype)
