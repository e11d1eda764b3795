"""A batch: different images, different questions, and which two belong together."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from vlm.core.choices import Choices
from vlm.core.compat import tree_map_only
from vlm.core.features import Features, Seen
from vlm.core.pairs import Pairs


class Batch(NamedTuple):
    """Questions with the images they are about; equal ones stand there once, and are encoded once.

    Attributes:
        images: (U, 3, H, W) uint8, the unique images; or `Features` of U images' regions, or that
            were kept of the images; of several encoders, `Several`.
        image_index: (Q,) int64 in [0, U), the image of each question; in [0, E) with `image_lists`.
        words: (T, L) int64 token ids of the T different questions, padded at the end.
        words_mask: (T, L) bool, True = a real token.
        targets: what the head's loss compares with, or None where answers are not known.
        ids: the questions' ids, Q strings.
        total: number of questions in the global batch, over all processes; the loss is the sum
            over questions divided by it. Infinite for questions of another process.
        choices: the questions' candidate answers, or None where the head takes none.
        text_index: (Q,) int64 in [0, T), the row of `words` of each question; None if no question
            repeats, so that `words` has a row for each.
        pairs: questions whose answers follow from one another; None where the head reads none.
        question: the text encoder's features of the Q questions, for a head that reads them
            (`AnswerHead.reads_question`), which `VQAModel` adds.
        image: (Q, D) the image encoder's `pooled` of each question's image, for a head that reads
            it (`AnswerHead.reads_image`), which `VQAModel` adds.
        image_lists: (E, K) int64, the rows of `images` of E different lists of images in their
            order, -1 after their end; None where each question is about one image.
        teacher: the same questions as a teacher reads them (`vlm.training.Distillation`).
        no_image: (Q,) bool, True = asked without an image, whatever `image_index` says; None where
            each question has one.
        no_question: (Q,) bool, True = the image's question is left out, whatever `words` says; None
            where each is there.
    """

    images: Seen
    image_index: Tensor
    words: Tensor
    words_mask: Tensor
    targets: Any
    ids: list[str]
    total: float
    choices: Choices | None = None
    text_index: Tensor | None = None
    pairs: Pairs | None = None
    question: Features | None = None
    no_image: Tensor | None = None
    no_question: Tensor | None = None
    teacher: Batch | None = None
    image: Tensor | None = None
    image_lists: Tensor | None = None

    def to(self, device: str | torch.device) -> Batch:
        """The batch with its tensors on another device."""
        # Lightning calls this in each step: without it, it would look for tensors in every id.
        device = torch.device(device)
        if self.image_index.device == device:
            return self
        later = device.type == "cuda"  # safe from pageable memory too
        moved = tree_map_only(
            Tensor, lambda tensor: tensor.to(device, non_blocking=later), self._replace(ids=[])
        )
        return moved._replace(ids=self.ids)
