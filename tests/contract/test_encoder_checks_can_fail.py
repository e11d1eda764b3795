"""An encoder that breaks one promise fails its check, and the message says which promise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vlm.core.features import Features
from vlm.image import ConvNet
from vlm.image.positions import PositionKind
from vlm.testing import check_image_encoder, check_text_encoder
from vlm.text import BagOfWords, WordTokenizer


class ByteScale(ConvNet):
    def forward(self, images: Tensor) -> Features:
        return super().forward(images.float() / 256 if images.dtype == torch.uint8 else images)


class FlippedGrid(ConvNet):
    def forward(self, images: Tensor) -> Features:
        output = super().forward(images)
        return output._replace(boxes=output.boxes.flip(1))


class CoupledImages(ConvNet):
    def encode(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        tokens, pooled = super().encode(images, mask)
        return tokens, pooled - pooled.mean(0)


class PoolsFirstToken(ConvNet):
    def encode(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        tokens, _ = super().encode(images, mask)
        return tokens, tokens[:, 0].detach()


class OnlyInPooled(ConvNet):
    def __init__(self, image_size: int, widths: tuple[int, ...], positions: PositionKind) -> None:
        super().__init__(image_size, widths, positions=positions)
        self.pooler = nn.Linear(self.dim, self.dim)

    def encode(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        tokens, pooled = super().encode(images, mask)
        return tokens, self.pooler(pooled)


class Single(ConvNet):
    def encode(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        tokens, pooled = super().encode(images, mask)
        return tokens.float(), pooled.float()


class AnySize(ConvNet):
    def forward(self, images: Tensor) -> Features:
        return super().forward(images[..., :24, :24])


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (ByteScale, r"uint8 in \[0, 255\] and float in \[0, 1\] give the same.*differs"),
        (FlippedGrid, "boxes are the cells of `grid`, row by row.*differs"),
        (CoupledImages, "a row alone gives what it gives in a batch"),
        (PoolsFirstToken, "gradient from `pooled` alone"),
        (OnlyInPooled, "gradient from `real tokens` alone.*pooler.weight, pooler.bias"),
        (Single, "number type of the weights.*float32"),
        (AnySize, "wrong input raises ValueError .*too wide"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_broken_image_encoder(broken: type[ConvNet], message: str) -> None:
    with pytest.raises(AssertionError, match=f"(?s){message}"):
        check_image_encoder(broken(24, widths=(5, 7, 11), positions="none"))


class PaddingCounts(BagOfWords):
    def encode(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        tokens, pooled = super().encode(ids, mask)
        return tokens, pooled * ids.shape[1]


class ReadsPadding(BagOfWords):
    def forward(self, ids: Tensor, mask: Tensor) -> Features:
        fused = super().forward(ids, mask)
        return fused._replace(pooled=fused.pooled + ids.sum(1, keepdim=True) * 1e-3)


class EmptyIsNaN(BagOfWords):
    def encode(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        tokens, pooled = super().encode(ids, mask)
        return tokens, pooled / mask.any(1, keepdim=True)


class TokensWithoutMLP(BagOfWords):
    def encode(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.embedding(ids), super().encode(ids, mask)[1]


class TooLong(BagOfWords):
    def __init__(self, words: list[str], dim: int) -> None:
        super().__init__(words, dim, tokenizer=LongTokenizer(words, max_length=9))


class LongTokenizer(WordTokenizer):
    def __call__(self, questions: list[str]) -> tuple[Tensor, Tensor]:
        ids, mask = WordTokenizer(self.words, self.max_length + 5)(questions)
        return ids, mask

    def __reduce__(self) -> tuple:
        return LongTokenizer, (self.words, self.max_length)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (PaddingCounts, "padding changes nothing .*2 more padded words"),
        (ReadsPadding, "padding changes nothing .*other ids in the padding"),
        (EmptyIsNaN, "pooled: 13 of 65 values are NaN"),
        (TokensWithoutMLP, "gradient from `real tokens` alone.*mlp.0.weight"),
        (TooLong, "no question has more tokens than `max_length`. There are 14"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_broken_text_encoder(broken: type[BagOfWords], message: str) -> None:
    with pytest.raises(AssertionError, match=f"(?s){message}"):
        check_text_encoder(broken(["what", "colour"], dim=13))


def test_a_frozen_encoder_is_fine() -> None:
    encoder = ConvNet(12, widths=(5, 7)).requires_grad_(False)
    check_image_encoder(encoder)
