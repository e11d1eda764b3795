"""Attention followed through a fusion's layers, as one matrix over words and patches."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vlm.explain.case import Case
from vlm.explain.methods.base import Relevance
from vlm.fusion.attention import CrossModalAttention, trace_attention
from vlm.fusion.dfaf import Flow
from vlm.fusion.transformer import JointAttention

Weigh = Callable[[list[Tensor], Tensor], list[Tensor]]
"""(weights (1, H, N, M) of each layer, evidence (1,)) -> what flows in each, the same shapes."""


BETWEEN = (CrossModalAttention, Flow, JointAttention)
"""Layers that lead from words to patches or back."""


def flow(case: Case, weigh: Weigh, gain: float, keep: float) -> Relevance | None:
    """R <- keep * R + gain * A R, layer by layer, for the whole question.

    R (N, N), N = words, then patches, with a class token first where the fusion has one. A layer
    of cross-attention fills the rows of its queries and the columns of its context; both
    directions of one layer count one after the other. The answer reads the class token's
    row, or all real rows alike where there is none.

    Returns:
        None where attention does not lead from words and patches to words and patches.
    """
    patches = case.model.image_encoder(case.images).mask.shape[1]
    whole = torch.ones(1, len(case.ids), dtype=torch.bool, device=case.device)
    words = max(len(case.ids), 1)
    # Self-attention is told apart by its size: padding does no harm.
    longer = int(words == patches)
    image, text, mask = case.encode(whole, longer)
    with trace_attention(case.model.fusion) as traced:
        evidence = case.evidence_of(image, text, mask)
    words += longer
    joint = [len(w[0, 0]) for module, w in traced if isinstance(module, JointAttention)]
    first = max((length - words - patches for length in joint), default=0)
    places = [_ends(part, weights, words, patches, first) for part, weights in traced]
    if None in places or not any(isinstance(m, BETWEEN) for m, _ in traced):
        return None
    flowing = weigh([weights for _, weights in traced], evidence)
    relevance = torch.eye(first + words + patches, device=case.device)
    for ends, weights in zip(places, flowing, strict=True):
        assert ends is not None
        rows, columns = ends
        passed = weights[0].mean(0).float() @ relevance[columns]
        relevance[rows] = keep * relevance[rows] + gain * passed
    return _read(case, relevance, first, words, image.mask[0])


def _ends(
    module: nn.Module, weights: Tensor, words: int, patches: int, first: int
) -> tuple[slice, slice] | None:
    """Rows and columns of R that a layer leads to and from; None if they are no tokens of R."""
    of_words = slice(first, first + words)
    of_patches = slice(first + words, first + words + patches)
    if isinstance(module, JointAttention):
        everything = slice(0, first + words + patches)
        return everything, everything
    if isinstance(module, (CrossModalAttention, Flow)):
        ends = (of_patches, of_words) if module.words_last else (of_words, of_patches)
    else:
        ends = (of_words, of_words) if weights.shape[2] == words else (of_patches, of_patches)
    sizes = tuple(end.stop - end.start for end in ends)
    # Learned queries attend too.
    return ends if tuple(weights.shape[2:]) == sizes else None


def _read(case: Case, relevance: Tensor, first: int, words: int, patches: Tensor) -> Relevance:
    """The answer's row; `patches` (P,) bool are the real ones, for padding attends too."""
    length = len(case.ids)
    # What a token is worth to itself says nothing.
    relevance = relevance - torch.diag(relevance.diag())
    of_words = slice(first, first + length)
    each = relevance[of_words, first + words :] + relevance[first + words :, of_words].T
    if first:
        answer = relevance[0]
    else:
        real = torch.cat((relevance[:length], relevance[words:][patches]))
        answer = real.mean(0)
    of_patches = answer[None, first + words :]
    reached = bool(relevance[:, of_words].any())  # else nothing looks at words
    return Relevance(
        case.cells(),
        case.on_cells(of_patches),
        answer[of_words] if reached else None,
        case.on_cells(each),
    )
