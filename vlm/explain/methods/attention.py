"""Methods that read the fusion's attention."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from vlm.explain.case import Case, gradients
from vlm.explain.methods.base import Method, Relevance
from vlm.explain.methods.flow import BETWEEN, flow
from vlm.explain.methods.gradients import embeds_words
from vlm.fusion.attention import RecordsAttention, record_attention, trace_attention
from vlm.fusion.ban import BilinearAttention
from vlm.fusion.murel import MaxOverRegions
from vlm.model import VQAModel


class Map(NamedTuple):
    """What one attending part of the fusion recorded in one pass.

    Attributes:
        name: name of the part inside the fusion.
        weights: (B, heads, L, P) or (B, glimpses, P).
        used: the weights as the fusion used them, before they were brought into that form: what a
            gradient leads to. Where patches attend to words their rows are the patches, unless
            these are `weights` themselves.
        to_words: True where patches attend to words: each patch's column sums to one, so only the
            rows (words) can be compared.
        pairs: True where one softmax is over all pairs of a word and a patch.
    """

    name: str
    weights: Tensor
    used: Tensor
    to_words: bool
    pairs: bool


class Attention(Method):
    """Where the fusion looks: the mean of its attention over heads or glimpses and layers.

    Raw weights show where a model looks, but not that the answer rests on it (Jain and Wallace
    2019, arXiv 1902.10186); they have no sign. If words have no maps of their own, a word's share
    of the map is the change without the word, and its relevance is the evidence lost without it.

    Example:
        >>> vqa, method = vlm.load("my_model"), vlm.explain.Attention()
        >>> found = vlm.explain.explain(vqa, "photo.png", "what color is it?", method)
        >>> found.words, found.word_relevance.shape, found.patches.shape
        (['what', 'color', 'is', 'it'], (4,), (16,))
    """

    name: ClassVar[str] = "attention"
    unit: ClassVar[str] = "share of attention"
    signed: ClassVar[bool] = False

    @classmethod
    def fits(cls, model: VQAModel) -> bool:
        return any(isinstance(part, RecordsAttention) for part in model.fusion.modules())

    def relevance(self, case: Case, kept: Tensor) -> Relevance:
        with torch.no_grad():
            maps, _, real = record(case, kept)
        return _summed(case, kept, [m.weights for m in maps], maps, real)


class AttentionGradient(Method):
    """Attention x gradient (Chefer et al. 2021, arXiv 2103.15679).

        A = mean over heads of (d evidence / d attention * attention)^+,   R <- R + A R

    over the fusion's layers. R is the relevance of words and patches to each other, at first the
    identity (`vlm.explain.methods.flow`). Self-attention within words and within patches is
    included; the encoders' own layers are not. If attention is no sequence of layers between words
    and patches (glimpses, bilinear maps, learned queries), A is summed over all maps, with the
    gradient of the scores before the softmax: the weights of a map always sum to one, so a gradient
    of the weights that is below 0 everywhere would leave nothing.

    Example:
        >>> vqa, method = vlm.load("my_model"), vlm.explain.AttentionGradient()
        >>> found = vlm.explain.explain(vqa, "photo.png", "what color is it?", method)
        >>> found.words, found.word_relevance.shape, found.patches.shape
        (['what', 'color', 'is', 'it'], (4,), (16,))
    """

    name: ClassVar[str] = "attention_gradient"
    unit: ClassVar[str] = "attention x gradient"
    signed: ClassVar[bool] = False

    @classmethod
    def fits(cls, model: VQAModel) -> bool:
        # What `MaxOverRegions` shows is counted, and no gradient leads to it.
        return embeds_words(model) and any(
            isinstance(part, RecordsAttention) and not isinstance(part, MaxOverRegions)
            for part in model.fusion.modules()
        )

    def relevance(self, case: Case, kept: Tensor) -> Relevance:
        if not self.fits(case.model):
            raise ValueError(_no_attention(case.model))

        def positive(weights: list[Tensor], evidence: Tensor) -> list[Tensor]:
            found = torch.autograd.grad(evidence.sum(), weights, materialize_grads=True)
            return [(g * w).detach().relu() for w, g in zip(weights, found, strict=True)]

        with gradients():
            flown = flow(case, positive, gain=1.0, keep=1.0)
            if flown is not None:
                return flown
            maps, evidence, real = record(case, kept)
            used = [m.used for m in maps]
            found = torch.autograd.grad(evidence.sum(), used, materialize_grads=True)
            positives = []
            for m, gradient in zip(maps, found, strict=True):
                weights = m.used.detach()
                products = gradient * weights
                turned = m.to_words and m.used is m.weights
                axes = (-2, -1) if m.pairs else (-2,) if turned else (-1,)
                positive_here = (products - weights * products.sum(axes, keepdim=True)).relu()
                positives.append(positive_here.mT if m.to_words != turned else positive_here)
            return _summed(case, kept, positives, maps, real)


class Rollout(Method):
    """Attention rollout (Abnar and Zuidema 2020, arXiv 2005.00928): attention followed through
    layers of words and patches, half of each token passing by on the residual connection.

        R <- 0.5 R + 0.5 A R

    with A the mean over heads, R at first the identity (`vlm.explain.methods.flow`).

    Example:
        >>> vqa, method = vlm.load("my_model"), vlm.explain.Rollout()
        >>> found = vlm.explain.explain(vqa, "photo.png", "what color is it?", method)
        >>> found.words, found.word_relevance.shape, found.patches.shape
        (['what', 'color', 'is', 'it'], (4,), (16,))
    """

    name: ClassVar[str] = "rollout"
    unit: ClassVar[str] = "share of attention, through the layers"
    signed: ClassVar[bool] = False

    @classmethod
    def fits(cls, model: VQAModel) -> bool:
        return any(isinstance(part, BETWEEN) for part in model.fusion.modules())

    def relevance(self, case: Case, kept: Tensor) -> Relevance:
        with torch.no_grad():
            flown = flow(case, lambda weights, _: weights, gain=0.5, keep=0.5)
        if flown is None:
            raise ValueError(
                f"method: rollout follows layers of attention between words and patches, which "
                f"{type(case.model.fusion).__name__} does not have; choose attention or occlusion."
            )
        return flown


def record(case: Case, kept: Tensor) -> tuple[list[Map], Tensor, Tensor]:
    """The fusion's attention to variants (B, L) of the question, the evidence (B,), and the number
    () of patches without padding."""
    fusion = case.model.fusion
    image, text, mask = case.encode(kept)
    with record_attention(fusion) as recorded, trace_attention(fusion) as traced:
        evidence = case.evidence_of(image, text, mask)
    maps = []
    for name, passes in recorded.items():
        part = fusion.get_submodule(name)
        used = [weights for module, weights in traced if module is part] or passes
        to_words = getattr(part, "words_last", False)
        pairs = isinstance(part, BilinearAttention)
        maps += [Map(name, w, u, to_words, pairs) for w, u in zip(passes, used, strict=True)]
    if not maps:
        raise ValueError(_no_attention(case.model))
    return maps, evidence, image.mask[0].sum()


def _summed(
    case: Case, kept: Tensor, weights: list[Tensor], maps: list[Map], real: Tensor
) -> Relevance:
    """Means over heads and glimpses, summed over maps; each kind tells what it can."""
    words = len(case.ids)
    counts = kept.sum(1, keepdim=True).clamp(min=1)  # (B, 1) words of each variant
    patches = weights[0].new_zeros(len(kept), maps[0].weights.shape[-1])
    each = patches.new_zeros(words, patches.shape[1])  # of the first row, the whole question
    of_words = torch.zeros_like(each[:, 0])
    any_words = False
    for weight, found in zip(weights, maps, strict=True):
        if found.weights.ndim == 3 and weight.ndim == 4:  # of learned queries, to patches and more
            weight = weight[..., : patches.shape[1]].flatten(1, 2)
        mean = weight.mean(1)  # (B, L, P) or (B, P)
        if mean.ndim == 2:
            patches = patches + mean
            continue
        any_words = True
        each = each + mean[0, :words]
        # A softmax over words makes every patch's column sum up alike, and the other way round.
        if found.to_words:
            of_words = of_words + mean[0, :words].sum(1) / real.clamp(min=1)
        else:
            patches = patches + mean.sum(1) / counts
    if not patches.any():  # patches look at words, and nothing looks at patches
        patches = patches + each.mean(0)
    cells, patches = case.cells(), case.on_cells(patches.float())
    if not any_words:
        return Relevance(cells, patches)
    reached, each = bool(of_words.any()), case.on_cells(each.float())  # else nothing looks at words
    return Relevance(cells, patches, of_words.float() if reached else None, each)


def _no_attention(model: VQAModel) -> str:
    if not embeds_words(model):
        return (
            f"method: {type(model.text_encoder).__name__} has no vectors of words that gradients "
            f"could lead to; choose occlusion."
        )
    return (
        f"method: {type(model.fusion).__name__} has no attention that it can read; choose "
        f"occlusion, grad_cam or integrated_gradients."
    )
