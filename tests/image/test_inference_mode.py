"""Encoders are built outside `torch.inference_mode`; a stored model can be loaded anywhere."""

from __future__ import annotations

import pytest
import torch

from vlm import VQAModel
from vlm.fusion import Pooled
from vlm.heads import Classification
from vlm.image import TimmEncoder
from vlm.text import BagOfWords


def test_an_encoder_built_in_inference_mode_is_refused() -> None:
    with torch.inference_mode(), pytest.raises(ValueError, match="Build it first"):
        TimmEncoder("resnet10t", image_size=32)


def test_a_model_made_from_its_configuration_in_inference_mode_can_be_trained() -> None:
    model = small_model()
    with torch.inference_mode():
        again = VQAModel.from_config(model.config)
    assert not any(parameter.is_inference() for parameter in again.parameters())
    wanted = {name for name, value in model.named_parameters() if value.requires_grad}
    assert {name for name, value in again.named_parameters() if value.requires_grad} == wanted


def small_model() -> VQAModel:
    image = TimmEncoder("resnet10t", image_size=32)
    text = BagOfWords(["what", "colour"], dim=7)
    fusion = Pooled(image.dim, text.dim)
    return VQAModel(image, text, fusion, Classification(fusion.out_dim, ["red", "blue"]))
