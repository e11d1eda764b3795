"""Models whose answer depends on one known patch and one known word, to test explanations."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from vlm.core.batch import Batch
from vlm.core.features import Features, masked_max
from vlm.fusion import Fusion
from vlm.fusion.attention import CrossModalAttention
from vlm.heads import Classification
from vlm.image import PixelEncoder
from vlm.image.transform import ImageTransform
from vlm.inference import VQA
from vlm.model import VQAModel
from vlm.text import TextEncoder, WordTokenizer

WORDS = ["what", "colour", "is", "the", "circle"]
QUESTION = "What colour is the circle?"
ROWS, COLUMNS, SIDE = 3, 5, 7
PATCH, WORD = 8, 4
"""The patch that is bright and the word that asks for it."""


class MeanColours(PixelEncoder):
    """Each token is the mean red value of its cell; `pooled` is the maximum."""

    def __init__(self) -> None:
        size = ROWS * SIDE, COLUMNS * SIDE
        super().__init__(1, (ROWS, COLUMNS), ImageTransform(size), (0.0,) * 3, (1.0,) * 3)

    def encode(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        tokens = nn.functional.avg_pool2d(images[:, :1], SIDE).flatten(2).mT  # (B, P, 1)
        return tokens, masked_max(tokens, mask)


class OneWord(TextEncoder):
    """The token is 1 for the word that counts and 0 for all others; `pooled` is the maximum."""

    def __init__(self) -> None:
        super().__init__(1, WordTokenizer(WORDS))
        self.embedding = nn.Embedding(len(WORDS) + 2, 1)
        with torch.no_grad():
            self.embedding.weight.copy_(torch.eye(len(WORDS) + 2)[:, [WORD + 2]])

    def encode(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.embedding(ids)
        return tokens, masked_max(tokens, mask)


class TimesFusion(Fusion):
    """`pooled` is the highest word times the highest patch, so the answer needs both."""

    def __init__(self) -> None:
        super().__init__(1, 1, 1)

    def fuse(self, image: Features, text: Features) -> Features:
        pooled = image.pooled * text.pooled
        return Features(pooled[:, None], torch.ones(len(pooled), 1, dtype=torch.bool), pooled)


class LookingFusion(Fusion):
    """Words attend to patches: the word that counts to the bright patch, others to all equally."""

    def __init__(self) -> None:
        super().__init__(1, 1, 1)
        self.words_to_patches = CrossModalAttention(1, 1, 1)
        with torch.no_grad():
            self.words_to_patches.query.weight.fill_(10)
            self.words_to_patches.query.bias.fill_(0)
            self.words_to_patches.key_value.weight.fill_(1)
            self.words_to_patches.key_value.bias.fill_(0)
            self.words_to_patches.out.weight.fill_(1)
            self.words_to_patches.out.bias.fill_(0)

    def fuse(self, image: Features, text: Features) -> Features:
        patches = image.zero_padding().tokens
        words = text.zero_padding().tokens
        seen = words * self.words_to_patches(words, patches, image.mask, text.mask)
        return Features(seen, text.mask, masked_max(seen, text.mask))


class Read(Classification):
    """The joint vector is the logit of "yes"; the logit of "no" is always 0."""

    def __init__(self) -> None:
        super().__init__(1, ["yes", "no"], hidden_dims=())

    def forward(self, fused: Features, batch: Batch) -> Tensor:
        return torch.cat((fused.pooled, torch.zeros_like(fused.pooled)), -1)


def known_vqa(fusion: Fusion) -> VQA:
    return VQA(VQAModel(MeanColours(), OneWord(), fusion, Read()))


def known_image(scale: int = 1) -> np.ndarray:
    """A black image with one bright patch, `scale` times as large as the model's input."""
    picture = np.zeros((ROWS * SIDE * scale, COLUMNS * SIDE * scale, 3), np.uint8)
    row, column = divmod(PATCH, COLUMNS)
    side = SIDE * scale
    picture[row * side : (row + 1) * side, column * side : (column + 1) * side] = 255
    return picture
