"""Counting: how many different objects attention looks at, read off the overlaps of their boxes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vlm.core.part import Part
from vlm.core.validation import check_positive


class ObjectCounter(Part):
    """Counts objects from attention weights and boxes (arXiv 1802.05766).

    Zhang, Hare, Prügel-Bennett 2018, "Learning to count objects in natural images for visual
    question answering".

    Soft attention cannot count: a weighted mean of two equal cats is one cat. Here the attended
    boxes are the corners of a graph with all edges, a_i a_j. Edges between boxes of the same object
    are removed (intra-object), and boxes with similar edges share one object's weight
    (inter-object). For n objects, n^2 edges remain:

        A = a a^T,  D_ij = 1 - IoU(box_i, box_j)
        E = f1(A) * f2(D)
        X = f4(A) * f5(D),  sim_ij = f3(1 - |a_i - a_j|) prod_k f3(1 - |X_ik - X_jk|)
        s_i = 1 / sum_j sim_ij
        count = sqrt(sum_ij E_ij s_i s_j + sum_i s_i f1(a_i^2))
        result_k = f8(mean_i |f6(a_i) - 1/2| + mean_ij |f7(D_ij) - 1/2|) max(0, 1 - |count - k|)

    f1 to f8 are learned, piecewise linear, increasing from 0 at 0 to 1 at 1, and straight at first.
    If all weights and overlaps are 0 or 1, the count is exact. The count is clipped at `objects`.

    (B, P) logits of attention, (B, P, 4) boxes, (B, P) bool mask -> (B, objects + 1), the
    confidence in each count from 0 to `objects`. A row without real patches counts 0.

    Args:
        objects: number of patches to use, those with the highest logits; this is also the largest
            count.
        pieces: number of pieces of each learned function.

    Example:
        >>> counter = vlm.fusion.ObjectCounter(objects=10)
        >>> logits, boxes = torch.randn(2, 36), torch.rand(2, 36, 4)
        >>> counter(logits, boxes, torch.ones(2, 36, dtype=torch.bool)).shape
        torch.Size([2, 11])
    """

    def __init__(self, objects: int = 10, pieces: int = 16) -> None:
        super().__init__()
        check_positive(objects=objects, pieces=pieces)
        self.objects = objects
        self.functions = nn.ModuleList(PiecewiseLinear(pieces) for _ in range(8))

    def forward(self, logits: Tensor, boxes: Tensor, mask: Tensor) -> Tensor:
        f1, f2, f3, f4, f5, f6, f7, f8 = self.functions
        wide = torch.promote_types(logits.dtype, torch.float32)  # 1e-12 is 0 in float16
        a, boxes = self._highest(logits.to(wide), boxes.to(wide), mask)  # (B, n), (B, n, 4)
        product = a[:, :, None] * a[:, None, :]  # A
        distance = 1 - overlaps(boxes)  # D
        edges = f1(product) * f2(distance)  # E
        compared = f4(product) * f5(distance)  # X
        alike = f3(1 - (compared[:, :, None] - compared[:, None, :]).abs()).prod(-1)  # (B, n, n)
        alike = alike * f3(1 - (a[:, :, None] - a[:, None, :]).abs())
        scale = 1 / alike.sum(-1)  # s
        total = (edges * scale[:, :, None] * scale[:, None, :]).sum((1, 2))
        total = total + (scale * f1(a * a)).sum(1)
        # The square root has no slope at zero.
        count = (total + 1e-12).sqrt().clamp(max=self.objects)
        certain = (f6(a) - 0.5).abs().mean(1) + (f7(distance) - 0.5).abs().mean((1, 2))
        numbers = torch.arange(self.objects + 1, device=count.device)
        result = f8(certain)[:, None] * (1 - (count[:, None] - numbers).abs()).clamp(min=0)
        return result.to(logits.dtype)

    def _highest(self, logits: Tensor, boxes: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and boxes of the `objects` highest patches; weight 0 and no area for padding."""
        missing = max(0, self.objects - logits.shape[1])
        weights = logits.sigmoid().masked_fill(~mask, 0)
        weights = nn.functional.pad(weights, (0, missing))
        boxes = boxes.masked_fill(~mask[..., None], 0)
        boxes = nn.functional.pad(boxes, (0, 0, 0, missing))
        weights, chosen = weights.topk(self.objects, dim=1)
        return weights, boxes.gather(1, chosen[..., None].expand(-1, -1, 4))


class PiecewiseLinear(nn.Module):
    """A learned increasing function of [0, 1] onto [0, 1], linear in each of its equal pieces.

    f(x) = sum_i max(0, 1 - |d x - i|) (w_1 + ... + w_i) / (w_1 + ... + w_d), where w are the sizes
    of the d parameters; all alike at first, so f(x) = x.
    """

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(pieces))

    def forward(self, x: Tensor) -> Tensor:
        pieces = len(self.weight)
        steps = self.weight.abs() / self.weight.abs().sum()
        heights = nn.functional.pad(steps.cumsum(0), (1, 0)).to(x.dtype)  # at 0, 1/d, ..., 1
        scaled = x.clamp(0, 1) * pieces
        left = scaled.detach().floor().long().clamp(max=pieces - 1)
        return heights[left] + (scaled - left) * (heights[left + 1] - heights[left])


def overlaps(boxes: Tensor) -> Tensor:
    """Intersection over union (B, N, N) of boxes (B, N, 4); 0 with a box that has no area."""
    low = torch.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
    high = torch.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
    both = (high - low).clamp(min=0).prod(-1)
    area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    union = area[:, :, None] + area[:, None, :] - both
    return both / union.clamp(min=torch.finfo(boxes.dtype).tiny)
