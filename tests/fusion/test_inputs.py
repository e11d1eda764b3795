"""Which inputs a fusion accepts as features."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

from vlm.core.features import Features
from vlm.fusion import CrossAttention

IMAGES = torch.randn(2, 4, 12)
WORDS = torch.randn(2, 6, 8)
IMAGE_MASK = torch.arange(4) < torch.tensor([[4], [3]])
TEXT_MASK = torch.arange(6) < torch.tensor([[6], [2]])


@pytest.fixture(scope="module")
def fusion() -> CrossAttention:
    torch.manual_seed(0)
    return CrossAttention(12, 8, out_dim=16).eval()


def test_masks_beside_tokens(fusion: CrossAttention) -> None:
    expected = fusion(Features(IMAGES, IMAGE_MASK), Features(WORDS, TEXT_MASK))
    got = fusion(IMAGES, WORDS, image_mask=IMAGE_MASK, text_mask=TEXT_MASK)
    torch.testing.assert_close(got[:3], expected[:3], rtol=0, atol=0)
    unmasked = fusion(IMAGES, WORDS)
    assert not torch.allclose(unmasked.pooled[1], expected.pooled[1])


@pytest.mark.parametrize("dtype", [torch.bool, torch.long])
def test_masks_beside_tokens_in_compiled_code(fusion: CrossAttention, dtype: torch.dtype) -> None:
    inputs = IMAGES, WORDS, IMAGE_MASK.to(dtype), TEXT_MASK.to(dtype)
    expected = fusion(*inputs)
    torch.compiler.reset()
    compiled = torch.compile(fusion, backend="aot_eager", fullgraph=True)(*inputs)
    torch.compiler.reset()
    exported = torch.export.export(fusion, inputs).module()(*inputs)
    for got in (compiled, exported):
        torch.testing.assert_close(got[:3], expected[:3])


def test_an_output_of_transformers(fusion: CrossAttention) -> None:
    config = BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    torch.manual_seed(0)
    bert, ids = BertModel(config).eval(), torch.randint(20, (2, 6))
    output = bert(ids, attention_mask=TEXT_MASK.long())
    got = fusion(IMAGES, output, text_mask=TEXT_MASK.long())
    expected = fusion(IMAGES, Features(output.last_hidden_state, TEXT_MASK))
    torch.testing.assert_close(got[:3], expected[:3], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "masks"),
    [
        ("image_mask", {"image_mask": IMAGE_MASK.float()}),
        ("text_mask", {"text_mask": TEXT_MASK[:, :3]}),
        ("text_mask", {"image_mask": IMAGE_MASK, "text_mask": TEXT_MASK.long() * 3}),
    ],
)
def test_a_wrong_mask_is_named(fusion: CrossAttention, name: str, masks: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{name}: "):
        fusion(IMAGES, WORDS, **masks)


def test_features_with_another_mask_are_refused(fusion: CrossAttention) -> None:
    with pytest.raises(ValueError, match=r"^text_mask: .*`Features`"):
        fusion(IMAGES, Features(WORDS), text_mask=TEXT_MASK)


@pytest.mark.parametrize("index", [[0, 1], torch.tensor([0.0, 1.0])])
def test_an_index_of_another_kind_is_named(index: Any, fusion: CrossAttention) -> None:
    with pytest.raises(ValueError, match=r"image_index: got (list|torch\.float32 of shape \(2,\))"):
        fusion(IMAGES, WORDS, image_index=index)


def test_several_images_follow_the_fusion_s_dtype() -> None:
    fusion = CrossAttention(12, 8, out_dim=16).bfloat16()
    fusion.take_images(2)
    assert fusion(IMAGES.bfloat16(), WORDS.bfloat16()).tokens.dtype == torch.bfloat16


def test_several_images_are_exported_with_an_open_batch() -> None:
    fusion = CrossAttention(12, 8, out_dim=16).eval()
    fusion.take_images(2)
    batch = {0: torch.export.Dim.AUTO}
    program = torch.export.export(
        fusion, (torch.randn(3, 4, 12), torch.randn(3, 6, 8)), dynamic_shapes=(batch, batch)
    ).module()
    torch.testing.assert_close(program(IMAGES, WORDS).pooled, fusion(IMAGES, WORDS).pooled)
