"""The composition: two encoders, a fusion and a head. Plain PyTorch."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vlm.batch import Batch
from vlm.features import Features
from vlm.fusion.base import Fusion
from vlm.heads.base import AnswerHead
from vlm.image.base import ImageEncoder
from vlm.part import build
from vlm.processor import Processor
from vlm.text.base import TextEncoder

PARTS = ("image_encoder", "text_encoder", "fusion", "head")


class VQAModel(nn.Module):
    """Image encoder, text encoder, fusion and head, trained end to end.

    Raises:
        ValueError: widths of neighbouring parts differ.
    """

    def __init__(
        self,
        image_encoder: ImageEncoder,
        text_encoder: TextEncoder,
        fusion: Fusion,
        head: AnswerHead,
    ) -> None:
        super().__init__()
        for argument, wanted, source in (
            ("image_dim", image_encoder.dim, image_encoder),
            ("text_dim", text_encoder.dim, text_encoder),
        ):
            _check_width(f"fusion.{argument}", getattr(fusion, argument), fusion, wanted, source)
        _check_width("head.in_dim", head.in_dim, head, fusion.out_dim, fusion)
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder
        self.fusion = fusion
        self.head = head

    @property
    def processor(self) -> Processor:
        """What turns pictures, questions and answers into this model's batches."""
        return Processor(
            self.image_encoder.transform, self.text_encoder.tokenizer, self.head.encode_targets
        )

    def fuse(self, batch: Batch) -> Features:
        """Joint features of Q questions. Each of the U pictures is encoded once."""
        image = self.image_encoder(batch.images).take(batch.image_index)
        text = self.text_encoder(batch.words, batch.words_mask)
        return self.fusion(image, text)

    def forward(self, batch: Batch) -> Tensor:
        """The head's scores of Q questions, (Q, ...)."""
        return self.head(self.fuse(batch), batch)

    @property
    def config(self) -> dict[str, Any]:
        """Plain data from which `from_config` makes this model again, without its weights."""
        return {name: getattr(self, name).config for name in PARTS}

    @classmethod
    def from_config(cls, config: dict[str, Any], trust: bool = False) -> VQAModel:
        """Make a model from `config`; see `vlm.part.build` for `trust`."""
        return cls(**{name: build(config[name], trust) for name in PARTS})


def _check_width(name: str, got: int, part: nn.Module, wanted: int, source: nn.Module) -> None:
    if got != wanted:
        raise ValueError(
            f"{name}: {type(part).__name__} was built for width {got}, and "
            f"{type(source).__name__} gives {wanted}. Build it with {wanted}."
        )
