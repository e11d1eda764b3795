"""Precision, recall and F1 of each answer: which a model never gives, or too often."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple


class PrecisionRecall(NamedTuple):
    """Precision and recall of one answer.

    Attributes:
        precision: fraction of the answer's predictions that were right, in [0, 1]; nan if it was
            never predicted.
        recall: fraction of the answer's references that were found, in [0, 1]; nan if it was never
            the reference.
        f1: 2 right / (predicted + support), in [0, 1]. If precision and recall both exist, it is
            their harmonic mean. Never nan: an answer that was always missed has 0, so a mean over
            answers counts it.
        support: number of questions whose reference is the answer.

    Example:
        >>> red = vlm.metrics.per_answer(["red", "red", "blue"], ["red", "blue", "blue"])["red"]
        >>> red.precision, red.recall, red.support
        (0.5, 1.0, 1)
    """

    precision: float
    recall: float
    f1: float
    support: int


def per_answer(predictions: Sequence[str], references: Sequence[str]) -> dict[str, PrecisionRecall]:
    """Precision, recall, F1 and support of every answer on either side.

    Strings are compared exactly: apply `normalize_answer` to both sides first if spelling should
    not count. `references` holds one answer per question, for VQA v2 usually
    `multiple_choice_answer`.

    Returns:
        The figures by answer, those with the most support first, and equal support in alphabetical
        order.

    Raises:
        ValueError: arguments of different lengths.
        TypeError: either is a single string.
    """
    for name, given in (("predictions", predictions), ("references", references)):
        if isinstance(given, str):
            raise TypeError(
                f"{name} is the string {given!r}, but must be a sequence of strings: "
                f"for a single question pass [{given!r}]"
            )
    if len(predictions) != len(references):
        raise ValueError(
            f"predictions has length {len(predictions)} and references {len(references)}, "
            "but each question needs one of both: align them by question"
        )
    right = Counter(p for p, r in zip(predictions, references, strict=True) if p == r)
    predicted, support = Counter(predictions), Counter(references)
    answers = sorted(predicted | support, key=lambda answer: (-support[answer], answer))
    return {
        answer: PrecisionRecall(
            precision=_ratio(right[answer], predicted[answer]),
            recall=_ratio(right[answer], support[answer]),
            f1=2 * right[answer] / (predicted[answer] + support[answer]),
            support=support[answer],
        )
        for answer in answers
    }


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
