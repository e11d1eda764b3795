"""The one way from pictures, questions and answers to a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vlm.batch import Batch
from vlm.features import Features
from vlm.image.regions import RegionTransform
from vlm.image.transform import ImageTransform
from vlm.text.tokenizer import Tokenizer


class Processor(NamedTuple):
    """Belongs to a model; loader workers, the demo and `answer` all use it. Holds no weights.

    Attributes:
        transform: brings a picture to the image encoder's input.
        tokenizer: brings a question to the text encoder's input.
        encode_targets: brings the annotators' answers to the head's targets.
    """

    transform: ImageTransform | RegionTransform
    tokenizer: Tokenizer
    encode_targets: Callable[[Sequence[Sequence[str]]], Any]

    def batch(
        self,
        images: Tensor | Features,
        image_index: Sequence[int] | Tensor,
        questions: Sequence[str],
        answers: Sequence[Sequence[str]] | None = None,
        ids: Sequence[str] | None = None,
        total: int | None = None,
    ) -> Batch:
        """Put questions about U transformed pictures together; see `Batch`."""
        words, mask = self.tokenizer(questions)
        return Batch(
            images=images,
            image_index=torch.as_tensor(image_index, dtype=torch.long),
            words=words,
            words_mask=mask,
            targets=None if answers is None else self.encode_targets(answers),
            ids=[str(i) for i in range(len(questions))] if ids is None else list(ids),
            total=total or len(questions),
        )
