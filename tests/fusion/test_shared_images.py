"""Images that several questions share, and mistakes with them; equality is in the contract."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vlm.core.features import Features
from vlm.fusion import CrossAttention, Fusion, Pooled, StackedAttention

IMAGES, QUESTIONS, INDEX = torch.randn(2, 9, 8), torch.randn(3, 4, 6), torch.tensor([1, 0, 1])


def test_an_image_is_prepared_once() -> None:
    fusion = StackedAttention(8, 6, out_dim=10)
    rows: list[int] = []
    fusion.image_projection.register_forward_hook(lambda *call: rows.append(len(call[1][0])))
    fusion(IMAGES, QUESTIONS, image_index=INDEX)
    assert rows == [2]
    kept = fusion.keep(IMAGES)
    for _ in range(2):
        fusion(kept, QUESTIONS, image_index=INDEX)
    assert rows == [2, 2]


def test_only_the_fusion_that_kept_images_reads_them() -> None:
    fusion, other = CrossAttention(8, 6), CrossAttention(8, 6)
    with pytest.raises(ValueError, match="image: got images that CrossAttention keeps"):
        other(fusion.keep(IMAGES), QUESTIONS, image_index=INDEX)
    everything = torch.ones(2, 9, dtype=torch.bool)
    with pytest.raises(ValueError, match="no image_mask or image_lists beside them"):
        fusion(fusion.keep(IMAGES), QUESTIONS, everything, image_index=INDEX)
    with pytest.raises(ValueError, match="got batches of 2 and 3"):
        fusion(fusion.keep(IMAGES), QUESTIONS)


@pytest.mark.parametrize("index", [INDEX[:2], INDEX.int(), INDEX[:, None]])
def test_an_image_index_names_a_row_for_each_question(index: Tensor) -> None:
    with pytest.raises(ValueError, match=r"image_index: got .*expected torch.int64 of shape \(3,"):
        Pooled(8, 6)(IMAGES, QUESTIONS, image_index=index)


@pytest.mark.parametrize("prepared", [torch.zeros(9, 2), "tokens", object()])
def test_what_is_prepared_has_a_row_for_each_image(prepared: Any) -> None:
    class Mistaken(Fusion):
        def prepare(self, image: Features) -> Any:
            return [image.tokens, prepared]

        def fuse(self, image: Any, text: Features) -> Features:
            return text

    with pytest.raises(TypeError, match=r"Mistaken\.prepare: returned .*expected tensors with 2"):
        Mistaken(8, 6, 6)(IMAGES, QUESTIONS[:2])


@pytest.mark.parametrize(
    ("made", "error", "said"),
    [
        (torch.zeros(2, 10), TypeError, r"Mistaken\.fuse: returned Tensor; expected vlm\.Features"),
        (Features(torch.zeros(2, 1, 9)), ValueError, r"pooled vector of width 9; expected 10, the"),
    ],
)
def test_what_a_fusion_returns_has_its_width(made: Any, error: type[Exception], said: str) -> None:
    class Mistaken(Fusion):
        def fuse(self, image: Any, text: Features) -> Features:
            return made  # type: ignore[no-any-return]

    with pytest.raises(error, match=said):
        Mistaken(8, 6, 10)(IMAGES, QUESTIONS[:2])
