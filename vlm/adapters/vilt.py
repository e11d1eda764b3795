"""ViLT (Kim et al. 2021, arXiv 2102.03334): its embeddings are our encoders, its layers our fusion.

The modules are those of transformers, so that its weights fit by name; each part's `config` is the
`to_dict()` of transformers' ViltConfig.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlm.core.batch import Batch
from vlm.core.features import Features, masked_mean
from vlm.core.safe_config import model_of, read_options
from vlm.fusion import Fusion
from vlm.heads.classification import VocabularyHead
from vlm.heads.losses import soft_bce
from vlm.image.base import PixelEncoder
from vlm.image.canvas import CanvasTransform
from vlm.text.base import TextEncoder
from vlm.text.tokenizer import Tokenizer

_CONFIG = model_of(["vilt"])


@dataclass(frozen=True)
class ViltTransform(CanvasTransform):
    """Shorter side to `shorter` pixels, longer one at most 1333 / 800 times that, both rounded down
    to whole patches; laid into the upper left corner of a square, the rest of which is padding.

    Args:
        shorter: the shorter side, in pixels.
        patch: side of a patch in pixels.
    """

    shorter: int = 384
    patch: int = 32

    @classmethod
    def make(cls, shorter: int, patch: int) -> ViltTransform:
        """With the square that the longest image needs."""
        side = int(1333 / 800 * shorter) // patch * patch
        return cls((side, side), "bicubic", "pad", 1.0, shorter=shorter, patch=patch)

    def fitted(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) of an image of this (width, height) in the input."""
        scale = self.shorter / min(image_size)
        sides = [scale * side for side in image_size]
        longer = int(1333 / 800 * self.shorter)
        if max(sides) > longer:
            sides = [side * longer / max(sides) for side in sides]
        width, height = (max(int(side + 0.5) // self.patch, 1) * self.patch for side in sides)
        return width, height


class ViltPatches(PixelEncoder):
    """Patches with positions, which are stretched to the image's own grid."""

    stored: ClassVar = {"config": _CONFIG}

    def __init__(
        self,
        config: dict[str, Any],
        shorter: int = 384,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
    ) -> None:
        from transformers.models.vilt.modeling_vilt import ViltPatchEmbeddings

        made = vilt_config(config)
        transform = ViltTransform.make(shorter, made.patch_size)
        side = transform.size[0] // made.patch_size
        super().__init__(made.hidden_size, (side, side), transform, tuple(mean), tuple(std))
        self.patch_embeddings = ViltPatchEmbeddings(made)
        self.trained_side = made.image_size // made.patch_size
        self.trained_positions = nn.Parameter(torch.zeros(1, self.trained_side**2, self.dim))

    def encode(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        patches = self.patch_embeddings(images).flatten(2).transpose(1, 2)  # (B, P, D)
        positions = torch.stack([self._stretched(row) for row in mask.view(-1, *self.grid)])
        tokens = patches + positions.flatten(2).transpose(1, 2)
        return tokens, masked_mean(tokens, mask)

    def _stretched(self, real: Tensor) -> Tensor:
        """Positions (D, rows, columns), zeros outside the real patches (rows, columns) bool."""
        height, width = int(real.any(1).sum()), int(real.any(0).sum())
        if not height or not width:  # an image of nothing but padding
            return self.trained_positions.new_zeros(self.dim, *self.grid)
        trained = self.trained_positions.transpose(1, 2).unflatten(2, (self.trained_side,) * 2)
        found = F.interpolate(trained, (height, width), mode="bilinear", align_corners=True)
        return F.pad(found[0], (0, self.grid[1] - width, 0, self.grid[0] - height))


class ViltWords(TextEncoder):
    """Word pieces with positions."""

    stored: ClassVar = {"config": _CONFIG}

    def __init__(self, config: dict[str, Any], tokenizer: Tokenizer) -> None:
        from transformers.models.vilt.modeling_vilt import TextEmbeddings

        made = vilt_config(config)
        super().__init__(made.hidden_size, tokenizer)
        self.text_embeddings = TextEmbeddings(made)

    def encode(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.text_embeddings(input_ids=ids)
        return tokens, masked_mean(tokens, mask)


class ViltFusion(Fusion):
    """The transformer over words, a class token and patches; `pooled` is of the first word."""

    stored: ClassVar = {"config": _CONFIG}

    def __init__(self, image_dim: int, text_dim: int, config: dict[str, Any]) -> None:
        from transformers.models.vilt.modeling_vilt import ViltEncoder, ViltPooler

        made = vilt_config(config)
        super().__init__(image_dim, text_dim, made.hidden_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, made.hidden_size))
        self.modality = nn.Embedding(made.modality_type_vocab_size, made.hidden_size)
        self.encoder = ViltEncoder(made)
        self.layernorm = nn.LayerNorm(made.hidden_size, eps=made.layer_norm_eps)
        self.pooler = ViltPooler(made)

    def fuse(self, image: Features, text: Features) -> Features:
        image, text = image.zero_padding(), text.zero_padding()
        rows = len(text.tokens)
        words = text.tokens + self.modality.weight[0]
        seen = torch.cat((self.cls_token.expand(rows, -1, -1), image.tokens), 1)
        joint = torch.cat((words, seen + self.modality.weight[1]), 1)  # (B, L + 1 + P, D)
        mask = torch.cat((text.mask, text.mask.new_ones(rows, 1), image.mask), 1)
        ignored = torch.zeros_like(mask, dtype=joint.dtype).masked_fill(
            ~mask, torch.finfo(joint.dtype).min
        )
        hidden = self.layernorm(self.encoder(joint, attention_mask=ignored[:, None, None])[0])
        length = words.shape[1]
        tokens = torch.cat((hidden[:, :length], hidden[:, length + 1 :]), 1)
        return Features(tokens, torch.cat((text.mask, image.mask), 1), self.pooler(hidden))


class ViltAnswers(VocabularyHead):
    """The classifier over the answers of VQA v2, each with a probability of its own."""

    independent = True

    def __init__(self, in_dim: int, answers: Sequence[str] = ()) -> None:
        super().__init__(in_dim, answers)
        self.classifier = nn.Sequential(
            nn.Linear(in_dim, 2 * in_dim),
            nn.LayerNorm(2 * in_dim),
            nn.GELU(),
            nn.Linear(2 * in_dim, len(self.vocabulary)),
        )

    def forward(self, fused: Features, batch: Batch) -> Tensor:
        """Logits (Q, A)."""
        return self.classifier(fused.pooled)

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        return soft_bce(output, batch.targets).sum() / batch.total


def vilt_config(config: dict[str, Any]) -> Any:
    """transformers' configuration of plain data."""
    from transformers import ViltConfig

    return ViltConfig(**read_options(config) | {"attn_implementation": "eager"})
