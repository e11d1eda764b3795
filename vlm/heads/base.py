"""What every answer head offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from vlm.batch import Batch
from vlm.features import Features
from vlm.fusion.base import check_positive
from vlm.heads.vocabulary import AnswerVocabulary
from vlm.part import Part

Ranked = list[tuple[str, float]]
"""Answers with their probabilities, the most likely first."""


class AnswerHead(Part, ABC):
    """Joint features in, scores of answers out.

    Attributes:
        in_dim: width of the joint features.
        vocabulary: the answers it can give.
        encode_targets: turns the annotators' answers of Q questions into `Batch.targets`. It
            travels to loader workers, so it holds no weights.
    """

    vocabulary: AnswerVocabulary
    encode_targets: Callable[[Sequence[Sequence[str]]], Any]

    def __init__(self, in_dim: int) -> None:
        super().__init__()
        check_positive(in_dim=in_dim)
        self.in_dim = in_dim

    @abstractmethod
    def forward(self, fused: Features, batch: Batch) -> Tensor:
        """Scores of the answers, (Q, ...)."""

    @abstractmethod
    def loss(self, scores: Tensor, batch: Batch) -> Tensor:
        """Scalar: the sum over this batch's questions divided by `batch.total`."""

    @abstractmethod
    def decode(self, scores: Tensor, top_k: int) -> list[Ranked]:
        """The `top_k` most likely answers of each question with their probabilities."""
