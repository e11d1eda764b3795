"""Attention x gradient where patches attend to words and other queries attend to patches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_every_method_and_fusion import ANSWERS, QUESTION, WORDS, check, photo

from vlm.core.features import Features
from vlm.explain import METHODS, explain, methods_for
from vlm.explain.explainer import make_case
from vlm.fusion import CrossModalAttention, Fusion, QueryAttention, trace_attention
from vlm.heads import Classification
from vlm.image import ConvNet
from vlm.inference import VQA
from vlm.model import VQAModel
from vlm.text import Recurrent


class PatchesReadWords(Fusion):
    """Patches attend to words, then learned queries to patches, which rollout cannot follow."""

    def __init__(self, image_dim: int, text_dim: int) -> None:
        super().__init__(image_dim, text_dim, 6)
        self.read = CrossModalAttention(image_dim, text_dim, 1, words_last=True)
        self.queries = torch.nn.Parameter(torch.randn(3, 6))
        self.look = QueryAttention(6, image_dim, 2)

    def fuse(self, image: Features, text: Features) -> Features:
        patches = image.zero_padding().tokens
        patches = patches + self.read(patches, text.tokens, text.mask, image.mask)
        seen = self.look(self.queries.expand(len(patches), -1, -1), patches, image.mask)
        pooled = seen.mean(1)
        return Features(pooled[:, None], torch.ones(len(pooled), 1, dtype=torch.bool), pooled)


def test_attention_to_words_beside_other_attention() -> None:
    """The words x patches map is the positive part of the gradient of the softmax's scores."""
    image, text = ConvNet(16, widths=(5, 7)), Recurrent(WORDS, dim=11, embedding_dim=7)
    fusion = PatchesReadWords(image.dim, text.dim)
    vqa = VQA(VQAModel(image, text, fusion, Classification(6, ANSWERS, hidden_dims=())))
    for parameter in vqa.model.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    for name in methods_for(vqa.model):
        if name != "rollout":  # rollout reports that it does not fit
            check(vqa, name)
    found = explain(vqa, photo(), QUESTION, METHODS["attention_gradient"]())

    case = make_case(vqa.model, photo(), QUESTION)
    scores: list[torch.Tensor] = []

    def softmax(logits: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        scores.append(logits)
        return logits.masked_fill(~allowed, -torch.inf).softmax(-1)

    with pytest.MonkeyPatch.context() as patch, trace_attention(fusion):
        patch.setattr("vlm.fusion.attention.masked_softmax", softmax)
        everything = torch.ones(1, 5, dtype=torch.bool)
        ids, mask = case.questions(everything)
        features = vqa.model.image_encoder(case.images), vqa.model.text_encoder(ids, mask)
        evidence = case.evidence_of(*features, mask).sum()
    (gradient,) = torch.autograd.grad(evidence, scores[0])  # (1, 1, P, L)
    wanted = gradient[0, 0].relu().T.numpy()
    assert wanted.any()
    np.testing.assert_allclose(found.word_patch, wanted, rtol=1e-4, atol=1e-7)


class SomeReadTwice(PatchesReadWords):
    """Patches attend to words twice; the first pass only affects three patches."""

    def __init__(self, image_dim: int, text_dim: int) -> None:
        super().__init__(image_dim, text_dim)
        self.first = CrossModalAttention(image_dim, text_dim, 1, words_last=True)

    def fuse(self, image: Features, text: Features) -> Features:
        patches = image.zero_padding().tokens
        seen = self.first(patches, text.tokens, text.mask, image.mask)
        seen = seen * (torch.arange(patches.shape[1]) < 3)[:, None]
        return super().fuse(image._replace(tokens=patches + seen), text)


def test_every_map_to_words_counts_alike() -> None:
    """A patch that one attention map leaves unchanged is not mistaken for padding."""
    image, text = ConvNet(16, widths=(5, 7)), Recurrent(WORDS, dim=11, embedding_dim=7)
    fusion = SomeReadTwice(image.dim, text.dim)
    vqa = VQA(VQAModel(image, text, fusion, Classification(6, ANSWERS, hidden_dims=())))
    for parameter in vqa.model.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    found = explain(vqa, photo(), QUESTION, METHODS["attention_gradient"]())
    assert found.word_patch.any()
    wanted = found.word_patch.sum(1) / 16
    np.testing.assert_allclose(found.word_relevance, wanted, rtol=1e-4, atol=1e-9)
