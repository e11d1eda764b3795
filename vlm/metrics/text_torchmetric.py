"""Exact match and ANLS as torchmetrics metrics, for training loops and several processes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from vlm.metrics.text_match import ANLS_THRESHOLD, anls, exact_match


class _MeanScore(Metric, ABC):
    """The mean over all questions of a pure function of an answer and the annotators'."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @abstractmethod
    def score(self, prediction: str, answers: Sequence[str]) -> float:
        """Of one question, in [0, 1]."""

    def update(self, predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> None:
        """Count a batch of Q questions. On an error nothing of the batch is counted.

        Args:
            predictions: Q answers given.
            answers: Q lists of what the annotators wrote.

        Raises:
            ValueError: a text instead of a list of texts, lengths that differ, or a question
                without answers.
        """
        if isinstance(predictions, str) or len(predictions) != len(answers):
            raise ValueError(
                f"predictions and answers: got {len(predictions)} and {len(answers)}; wanted lists "
                f"with as many predictions as lists of answers."
            )
        scores = [self.score(*pair) for pair in zip(predictions, answers, strict=True)]
        self.total += sum(scores)
        self.count += len(scores)

    def compute(self) -> Tensor:
        """Scalar in [0, 1]; nan where no question came."""
        return (self.total / self.count).float()


class ExactMatch(_MeanScore):
    """Share of the questions whose answer an annotator wrote (`exact_match`), in [0, 1].

    A distributed sampler that repeats questions has them counted twice.

    Example:
        >>> metric = vlm.metrics.ExactMatch()
        >>> metric.update(["red", "two"], [["red"], ["three", "3"]])
        >>> metric.compute()
        tensor(0.5000)
    """

    def score(self, prediction: str, answers: Sequence[str]) -> float:
        return exact_match(prediction, answers)


class ANLS(_MeanScore):
    """Average normalised Levenshtein similarity (`anls`; Biten et al. 2019), in [0, 1].

    A distributed sampler that repeats questions has them counted twice.

    Args:
        threshold: from which share of wrong letters on an answer scores 0; in (0, 1].
        **kwargs: of `torchmetrics.Metric`.

    Example:
        >>> metric = vlm.metrics.ANLS()
        >>> metric.update(["coca cola"], [["coca-cola", "cola"]])
        >>> metric.compute()
        tensor(0.8889)
    """

    def __init__(self, threshold: float = ANLS_THRESHOLD, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = threshold

    def score(self, prediction: str, answers: Sequence[str]) -> float:
        return anls(prediction, answers, self.threshold)
