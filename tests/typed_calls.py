"""Calls whose inferred types `test_typed.py` checks with a type checker."""

from __future__ import annotations

from typing import Any, assert_type

from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from vlm import Features, VQAModel
from vlm.core.batch import Batch
from vlm.fusion import Fusion, Merge
from vlm.heads import AnswerHead, ChoiceScores, Classification, MultipleChoice
from vlm.image import ConvNet, ImageEncoder
from vlm.text import TextEncoder


def fused(fusion: Fusion, tokens: Tensor, mask: Tensor, output: BaseModelOutput) -> None:
    features = Features(tokens, mask)
    assert_type(features.pooled, Tensor)
    assert_type(fusion(features, tokens), Features)
    assert_type(fusion(output, tokens, text_mask=mask), Features)
    assert_type(fusion((tokens, mask), tokens).mask, Tensor)
    fusion(tokens, [1.0])  # type: ignore[arg-type]
    fusion(tokens)  # type: ignore[call-arg]


def encoded(image: ImageEncoder, convolutions: ConvNet, text: TextEncoder, ids: Tensor) -> None:
    assert_type(image(ids), Features)
    assert_type(convolutions(ids), Features)
    assert_type(text(ids, ids > 0), Features)


def answered(
    merge: Merge,
    head: AnswerHead,
    classes: Classification,
    choices: MultipleChoice,
    model: VQAModel,
    features: Features,
    batch: Batch,
) -> None:
    assert_type(merge(features.pooled, features.pooled), Tensor)
    assert_type(head(features, batch), Any)
    assert_type(classes(features, batch), Tensor)
    assert_type(choices(features, batch), ChoiceScores)
    model(batch, image=features)
    model()  # type: ignore[call-arg]
