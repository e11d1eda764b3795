"""Means in which every type of question counts alike, however many questions it has."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean, harmonic_mean
from typing import NamedTuple


class MeanPerType(NamedTuple):
    """Mean accuracy over types, in [0, 1]; "MPT" and "N-MPT" of the TDIUC paper.

    Attributes:
        arithmetic_mean_per_type: arithmetic mean of the types' accuracies.
        harmonic_mean_per_type: harmonic mean of the types' accuracies; low if one type is low, and
            0 if one is 0.
        normalized_arithmetic_mean_per_type: arithmetic mean, if a type's accuracy is the mean over
            its different answers, so a frequent answer counts no more than a rare one.
        normalized_harmonic_mean_per_type: harmonic mean of the same accuracies.

    Example:
        >>> types, answers = ["color", "color", "count"], ["red", "blue", "2"]
        >>> means = vlm.metrics.mean_per_type([1, 0, 1], types, answers)
        >>> means.arithmetic_mean_per_type
        0.75
    """

    arithmetic_mean_per_type: float
    harmonic_mean_per_type: float
    normalized_arithmetic_mean_per_type: float
    normalized_harmonic_mean_per_type: float


def mean_per_type(
    scores: Sequence[float], types: Sequence[str], answers: Sequence[str]
) -> MeanPerType:
    """Mean accuracy over types (Kafle and Kanan, ICCV 2017).

    Equal to the authors' script, except that the script adds 1e-10 percent to every type to avoid a
    division by zero.

    Args:
        scores: score of each question, in [0, 1].
        types: type of each question.
        answers: the right answer of each question.

    Raises:
        ValueError: lengths differ, or there are no questions.
    """
    by_type: defaultdict[str, list[float]] = defaultdict(list)
    by_answer: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for score, kind, answer in zip(scores, types, answers, strict=True):
        by_type[kind].append(score)
        by_answer[kind][answer].append(score)
    if not by_type:
        raise ValueError("scores is empty, but a mean needs at least one question")
    plain = [fmean(group) for group in by_type.values()]
    normalized = [fmean(map(fmean, groups.values())) for groups in by_answer.values()]
    return MeanPerType(
        fmean(plain), harmonic_mean(plain), fmean(normalized), harmonic_mean(normalized)
    )
