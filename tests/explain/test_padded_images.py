"""Attention from padded regions or patches must not count."""

from __future__ import annotations

import pytest
import torch
from test_every_method_and_fusion import ANSWERS, FUSIONS, QUESTION, TEXTS

from vlm.core.features import Features
from vlm.explain import METHODS, methods_for
from vlm.explain.case import Case
from vlm.heads import Classification
from vlm.image import RegionFeatures
from vlm.inference import VQA
from vlm.model import VQAModel

DIM, PADDING = 7, 5
WORDS = 5
"""Of the question: with as many regions, sizes do not tell the attention of words from theirs."""
CASES = [(fusion, 3) for fusion in sorted(set(FUSIONS) - {"film", "projector"})]
CASES += [("lxmert", WORDS), ("mcan", WORDS)]


@pytest.mark.parametrize(("fusion", "regions"), CASES)
def test_padding_of_the_image_changes_nothing(fusion: str, regions: int) -> None:
    text, joint = TEXTS["bag"](), FUSIONS[fusion](DIM, 11)
    head = Classification(joint.out_dim, ANSWERS)
    model = VQA(VQAModel(RegionFeatures(DIM), text, joint, head)).model
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tokens, boxes = torch.randn(1, regions, DIM), torch.rand(1, regions, 4)
    alone = Features(tokens, torch.ones(1, regions, dtype=torch.bool), tokens.mean(1), boxes)
    zeros = (0, 0, 0, PADDING)
    padded = Features(
        torch.nn.functional.pad(tokens, zeros),
        torch.arange(regions + PADDING)[None] < regions,
        tokens.mean(1),
        torch.nn.functional.pad(boxes, zeros),
    )
    for name in methods_for(model):
        cases = [Case(model, images, (1, 1), QUESTION, "red") for images in (alone, padded)]
        one, other = (METHODS[name]().relevance(c, c.without_each_word()) for c in cases)
        torch.testing.assert_close(other.patches[:, :regions], one.patches, rtol=1e-3, atol=1e-5)
        # Zeros up to rounding: some machines round equal rows of a matrix product differently.
        assert other.patches[:, regions:].abs().max() < 1e-5, name
        torch.testing.assert_close(other.words, one.words, rtol=1e-3, atol=1e-5)
        if one.word_patch is not None:
            assert other.word_patch is not None
            found = other.word_patch[:, :regions]
            torch.testing.assert_close(found, one.word_patch, rtol=1e-3, atol=1e-5)
