"""Options of other libraries' models either work or are refused when an encoder is built."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import BertConfig

from vlm.core.part import build
from vlm.image import TimmEncoder, TorchvisionEncoder
from vlm.image.base import PixelEncoder
from vlm.text import HuggingFaceEncoder
from vlm.text.tokenizer import WordTokenizer

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}


def vit(**options: Any) -> PixelEncoder:
    return TimmEncoder("vit_tiny_patch16_224", model_args=SMALL | options)


def resnet(**options: Any) -> PixelEncoder:
    return TimmEncoder("resnet10t", image_size=64, model_args=options)


def other(**options: Any) -> PixelEncoder:
    return TorchvisionEncoder("resnet18", image_size=64, model_args=options)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (vit, {"in_chans": 1}, r"in_chans=1; the encoder sets it itself\. Leave it out"),
        (vit, {"features_only": True}, "features_only=True; .* `stages`"),
        (vit, {"out_indices": [1]}, "out_indices=.* `stages`"),
        (vit, {"pretrained": True}, "pretrained=True; .* encoder's argument"),
        (vit, {"output_stride": 16}, "vit_tiny_patch16_224 cannot be built or run with it"),
        (vit, {"global_pool": "most"}, "cannot be built or run with it"),
        (vit, {"class_token": False}, "cannot be built or run with it"),
        (vit, {"embed_dim": "wide"}, "cannot be built"),
        (vit, {"norm_layer": "none"}, "cannot be built"),
        (vit, {"drop_rate": 2.0}, "cannot be built .*between 0 and 1"),
        (resnet, {"in_chans": 4}, "in_chans=4"),
        (resnet, {"features_only": True}, "features_only=True"),
        (resnet, {"output_stride": 7}, r"resnet10t cannot be built or run with it \(AssertionE"),
        (resnet, {"nothing": 1}, "unexpected keyword argument 'nothing'"),
        (other, {"weights": "DEFAULT"}, "weights='DEFAULT'; .* `pretrained`"),
        (other, {"nothing": 1}, "resnet18.* cannot be built .*'nothing'"),
        (other, {"norm_layer": "none"}, "cannot be built"),
        (other, {"width_per_group": 32}, "cannot be built .*base_width"),
    ],
)
def test_an_option_that_does_not_work_is_refused(
    make: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^model_args: got .*{message}"):
        make(**options)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (vit, {"num_classes": 7}),
        (vit, {"global_pool": "map"}),
        (vit, {"global_pool": "avg", "class_token": False}),
        (vit, {"reg_tokens": 4}),
        (vit, {"dynamic_img_size": True}),
        (vit, {"img_size": (32, 64)}),
        (resnet, {"num_classes": 7}),
        (resnet, {"global_pool": "avgmax"}),
        (resnet, {"output_stride": 16}),
        (other, {"num_classes": 7}),
    ],
)
def test_an_option_that_works_keeps_what_an_encoder_promises(
    make: Any, options: dict[str, Any]
) -> None:
    encoder = make(**options).eval()
    found = encoder(torch.zeros(2, *encoder.transform.shape, dtype=torch.uint8))
    assert found.tokens.shape == (2, encoder.grid[0] * encoder.grid[1], encoder.dim)


def words(**options: Any) -> HuggingFaceEncoder:
    sizes = {"vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3}
    config = BertConfig(**sizes, intermediate_size=32).to_dict()
    return HuggingFaceEncoder(config=config | options, tokenizer=WordTokenizer(["red", "blue"]))


@pytest.mark.parametrize(
    "options",
    [
        {"is_decoder": True},
        {"add_cross_attention": True},
        {"hidden_act": "none"},
        {"is_encoder_decoder": True},
        {"hidden_size": 25},
    ],
)
def test_a_configuration_of_no_text_encoder_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^config: got "):
        words(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"return_dict": False},
        {"torchscript": True},
        {"output_hidden_states": True},
        {"output_attentions": True},
        {"num_labels": 7},
        {"use_cache": True},
    ],
)
def test_options_of_the_output_change_nothing(options: dict[str, Any]) -> None:
    encoder = words(**options).eval()
    ids, mask = encoder.tokenizer(["red blue"])
    plain = words().eval()
    plain.load_state_dict(encoder.state_dict())
    assert torch.equal(encoder(ids, mask).tokens, plain(ids, mask).tokens)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet10t", {"block_args": {"attn_layer": "se"}, "stem_type": "deep"}),
        ("mobilenetv3_small_050", {"pad_type": "same"}),
        ("vit_tiny_patch16_224", SMALL | {"embed_norm_layer": "layernorm"}),
    ],
)
def test_options_that_timm_looks_up_are_rebuilt(name: str, options: dict[str, Any]) -> None:
    made = TimmEncoder(name, image_size=None if "img_size" in options else 64, model_args=options)
    again: Any = build(made.config)
    again.load_state_dict(made.state_dict())
