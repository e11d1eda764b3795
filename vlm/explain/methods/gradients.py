"""Methods that follow the evidence back through the model."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vlm.core.features import Features
from vlm.core.validation import check_positive
from vlm.explain.case import Case, Cells, embedded, gradients
from vlm.explain.methods.base import Method, Relevance
from vlm.model import VQAModel

ROWS_AT_ONCE = 64
ENCODED_AT_ONCE = 8


def embeds_words(model: VQAModel) -> bool:
    """Whether the text encoder has vectors of words, to follow the evidence back to."""
    return any(isinstance(module, nn.Embedding) for module in model.text_encoder.modules())


class GradCAM(Method):
    """Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391) on the image encoder's tokens.

        relevance_p = sum_d w_d token_pd
        w_d = mean over the patches of d evidence / d token_pd

    The paper sets negative values to 0; here they remain, as evidence against the answer. A word's
    relevance is gradient x input: its embedding times the evidence's gradient, summed.

    Example:
        >>> vqa, method = vlm.load("my_model"), vlm.explain.GradCAM()
        >>> found = vlm.explain.explain(vqa, "photo.png", "what color is it?", method)
        >>> found.words, found.word_relevance.shape, found.patches.shape
        (['what', 'color', 'is', 'it'], (4,), (16,))
    """

    name: ClassVar[str] = "grad_cam"
    unit: ClassVar[str] = "gradient x token"

    @classmethod
    def fits(cls, model: VQAModel) -> bool:
        return embeds_words(model)

    def relevance(self, case: Case, kept: Tensor) -> Relevance:
        # The image is encoded once for each row, with all that its gradients need.
        parts = [self._part(case, rows) for rows in kept.split(ENCODED_AT_ONCE)]
        patches = torch.cat([part.patches for part in parts])
        return Relevance(parts[0].cells, patches, parts[0].words)  # the first row is the question

    def _part(self, case: Case, kept: Tensor) -> Relevance:
        model, rows = case.model, len(kept)
        ids, mask = case.questions(kept)
        with gradients():
            table, vectors = case.embed(ids, mask)
            vectors = vectors.clone().requires_grad_()
            with embedded(table, vectors):
                text = model.text_encoder(ids, mask)
            image = model.image_encoder(differentiable(case.repeated(rows)))
            if not image.tokens.requires_grad:
                raise ValueError(
                    f"method: {type(model.image_encoder).__name__} lets no gradient through; "
                    f"choose occlusion."
                )
            evidence = case.evidence_of(image, text, mask)
            of_tokens, of_vectors = torch.autograd.grad(
                evidence.sum(), (image.tokens, vectors), allow_unused=True
            )
        if of_tokens is None:
            raise ValueError(
                f"method: the answer does not depend on the tokens of "
                f"{type(model.image_encoder).__name__}, whose `pooled` is made of something else; "
                f"choose integrated_gradients or occlusion."
            )
        real = image.mask[..., None]
        weights = of_tokens.masked_fill(~real, 0).sum(1, keepdim=True) / real.sum(1, keepdim=True)
        patches = (weights * image.tokens.detach()).sum(-1).masked_fill(~image.mask, 0)
        words = torch.zeros(len(case.ids), device=case.device)
        if of_vectors is not None:  # a fusion that reads no words
            words = (of_vectors * vectors.detach()).sum(-1)[0, : len(case.ids)]
        return Relevance(case.cells(), case.on_cells(patches.float()), words.float())


class IntegratedGradients(Method):
    """Integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365) of pixels and words.

    The path leads from an empty image (the photo's median colour; zeros for regions) and a question
    of zero vectors to the input. The attributions of all pixels and words add up to the difference
    in evidence between both ends; the attributions of a cell's pixels are summed. Captum computes
    them.

    Args:
        steps: number of points on the path.
        refine: number of parts into which each side of the encoder's cells is divided.

    Example:
        >>> vqa, method = vlm.load("my_model"), vlm.explain.IntegratedGradients(steps=4)
        >>> found = vlm.explain.explain(vqa, "photo.png", "what color is it?", method)
        >>> found.words, found.word_relevance.shape, found.patches.shape
        (['what', 'color', 'is', 'it'], (4,), (256,))
    """

    name: ClassVar[str] = "integrated_gradients"
    unit: ClassVar[str] = "evidence owed to it"

    @classmethod
    def fits(cls, model: VQAModel) -> bool:
        return embeds_words(model)

    def __init__(self, steps: int = 16, refine: int = 4) -> None:
        check_positive(steps=steps, refine=refine)
        self.steps, self.refine = steps, refine

    @staticmethod
    def available() -> bool:
        """Whether Captum is installed."""
        return find_spec("captum") is not None

    def relevance(self, case: Case, kept: Tensor) -> Relevance:
        if not self.available():
            raise ValueError(
                "method: integrated_gradients needs captum; install it with "
                "`pip install 'vlm-vqa[explain]'`."
            )
        from captum import attr as captum

        model, rows = case.model, len(kept)
        ids, mask = case.questions(kept)
        cells = case.cells(self.refine)
        given = differentiable(case.repeated(rows))
        regions = given if isinstance(given, Features) else None
        inputs = given if regions is None else regions.tokens
        nothing = case.nothing()
        baseline = (nothing / 255 if regions is None else nothing).expand_as(inputs)

        def evidence(values: Tensor, vectors: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
            images: Any = values
            if regions is not None:
                images = regions.take(ids.new_zeros(len(ids)))._replace(tokens=values)
            with embedded(table, vectors):
                text = model.text_encoder(ids, mask)
            return case.evidence_of(model.image_encoder(images), text, mask)

        with gradients():
            table, vectors = case.embed(ids, mask)
            of_inputs, of_vectors = captum.IntegratedGradients(evidence).attribute(
                (inputs.detach(), vectors.clone()),
                baselines=(baseline, torch.zeros_like(vectors)),
                additional_forward_args=(ids, mask),
                n_steps=self.steps,
                internal_batch_size=max(rows, ROWS_AT_ONCE),
            )
        of_words = of_vectors.sum(-1)[0, : len(case.ids)]
        if regions is not None:
            patches = of_inputs.sum(-1)  # (B, P)
        else:
            patches = sum_in_cells(of_inputs[:, :3].sum(1), cells)
        return Relevance(cells, patches.float(), of_words.float())


def differentiable(images: Tensor | Features) -> Any:
    """The same input as numbers that a gradient can lead to: colours in [0, 1], or regions."""
    if isinstance(images, Features):
        return images._replace(tokens=images.tokens.detach().clone().requires_grad_())
    return (images / 255).requires_grad_()


def sum_in_cells(values: Tensor, cells: Cells) -> Tensor:
    """Sums of pixels over the cells of a grid: (B, H, W) -> (B, P)."""
    assert cells.grid is not None
    sides = []
    for count, size in zip(cells.grid, values.shape[1:], strict=True):
        middle = (torch.arange(size, device=values.device) + 0.5) / size
        cell = (middle * count).long()  # of each pixel
        sides.append(torch.nn.functional.one_hot(cell, count).to(values.dtype))
    return (sides[0].T @ values @ sides[1]).flatten(1)
