"""From the scores of single questions to means, and to how far those means can be trusted."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence, Sized
from typing import Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

_Floats = NDArray[np.float64]
_Key = TypeVar("_Key", bound=Hashable)
# Counts drawn at a time by the bootstrap, 8 bytes each: bounds its memory.
_DRAWN_AT_ONCE: Final = 2**21


class Mean(NamedTuple):
    """A mean and its number of questions.

    Attributes:
        mean: mean score, in [0, 1].
        questions: number of questions, at least 1.

    Example:
        >>> means = vlm.metrics.accuracy_by([1, 0, 1], ["color", "color", "count"])
        >>> means["color"]
        Mean(mean=0.5, questions=2)
    """

    mean: float
    questions: int


class Interval(NamedTuple):
    """A confidence interval, and the repetition for which it holds.

    Attributes:
        low: lower end, in the unit of the scores.
        high: upper end.
        over: the source of variation, such as "questions, clustered by image" or "3 seeds". An
            interval over questions says nothing about other seeds, and vice versa.

    Example:
        >>> interval = vlm.metrics.seed_interval([0.60, 0.62, 0.61])
        >>> round(interval.low, 3), round(interval.high, 3), interval.over
        (0.585, 0.635, '3 seeds')
    """

    low: float
    high: float
    over: str


def accuracy_by(scores: Sequence[float], keys: Sequence[_Key]) -> dict[_Key, Mean]:
    """Mean score and number of questions for each key, such as an answer or question type.

    Args:
        scores: score of each question, in [0, 1].
        keys: the key of each question.

    Returns:
        The means by key, in the order of first appearance. Empty without questions.

    Raises:
        ValueError: arguments of different lengths.
    """
    _check_aligned(scores=scores, keys=keys)
    groups: dict[_Key, list[float]] = {}
    for score, key in zip(scores, keys, strict=True):
        groups.setdefault(key, []).append(float(score))
    return {key: Mean(math.fsum(group) / len(group), len(group)) for key, group in groups.items()}


def bootstrap_interval(
    scores: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    unit: str = "image",
) -> Interval:
    """Interval for the mean score on other questions from the same source.

    This is the percentile bootstrap. With `clusters`, whole clusters are drawn, each with all its
    questions, and the mean is the sum of the drawn scores divided by the number of drawn questions.
    Questions about one image are not independent, and treating them as independent makes the
    interval too narrow.

    If all clusters have the same mean c (for example, every question is right), every resample
    gives c, and the bootstrap would claim certainty. In that case, with m clusters, the share of
    clusters unlike these is at most q = 1 - (alpha/2)^(1/m) by Clopper and Pearson's exact bound.
    If such clusters score between 0 and 1, the mean lies in [c(1-q), c(1-q) + q]. For c = 1 that is
    the exact [(alpha/2)^(1/m), 1]. This assumes clusters of similar size.

    Args:
        scores: (Q,) score of each question, in [0, 1].
        clusters: cluster of each question, such as its image id; None makes each question a
            cluster.
        level: confidence, in (0, 1).
        resamples: number of bootstrap samples, at least 1; with fewer than about 1000 the ends are
            rough.
        seed: seed of the resampling; the same seed gives the same interval.
        unit: name of a cluster, for `Interval.over`.

    Raises:
        ValueError: `scores` that are empty, not one-dimensional or outside [0, 1], `clusters` of
            another length, or a `level` or `resamples` out of range.
    """
    values = _unit_scores(scores)
    alpha = 1 - _checked_level(level)
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}, but must be at least 1 (2000 is usual)")
    over = "questions" if clusters is None else f"questions, clustered by {unit}"
    sums, sizes = _cluster_sums(values, clusters)
    if np.ptp(sums / sizes) < 1e-9:
        centre = float(values.mean())
        unlike = 1 - (alpha / 2) ** (1 / len(sums))
        low = centre * (1 - unlike)
        return Interval(low, low + unlike, over)
    means = _resampled_means(sums, sizes, resamples, np.random.default_rng(seed))
    low, high = np.quantile(means, [alpha / 2, 1 - alpha / 2])
    return Interval(float(low), float(high), over)


def seed_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Interval for the mean over training seeds, by Student's t.

    This assumes independent and about normally distributed values. Equal values give an interval of
    width 0, which says that these seeds agree, but not that all seeds would.

    Args:
        values: the same measurement for each of two or more seeds, in any unit.
        level: confidence, in (0, 1).

    Raises:
        ValueError: fewer than two values, a value that is not finite, or `level` out of range.
    """
    _checked_level(level)
    runs = np.asarray(values, dtype=np.float64)
    if runs.ndim != 1 or len(runs) < 2:
        raise ValueError(
            f"values has shape {runs.shape}, but a spread over seeds needs at least two numbers: "
            "train with more seeds"
        )
    if not np.isfinite(runs).all():
        raise ValueError(f"values is {runs.tolist()}, but must be finite: drop the failed runs")
    error = float(runs.std(ddof=1)) / math.sqrt(len(runs))
    half = float(stdtrit(len(runs) - 1, (1 + level) / 2)) * error
    mean = float(runs.mean())
    return Interval(mean - half, mean + half, f"{len(runs)} seeds")


def number_clusters(clusters: Sequence[Hashable]) -> list[int]:
    """A number for each, equal for equal ones, from 0 in the order of first appearance."""
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(cluster, len(numbers)) for cluster in clusters]


def _check_aligned(**columns: Sized) -> None:
    (first, a), (second, b) = columns.items()
    if len(a) != len(b):
        raise ValueError(
            f"{first} has length {len(a)} and {second} {len(b)}, "
            "but each question needs one of both: align them by question"
        )


def _unit_scores(scores: ArrayLike) -> _Floats:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"scores has shape {values.shape}, but must be (Q,) with Q at least 1")
    # Written so that nan fails too.
    wrong = values[~((values >= 0) & (values <= 1))]
    if len(wrong):
        raise ValueError(
            f"scores contains {wrong[0]}, but must lie in [0, 1]: divide percentages by 100"
        )
    return values


def _checked_level(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, but must lie in (0, 1), such as 0.95")
    return level


def _cluster_sums(
    values: _Floats, clusters: Sequence[Hashable] | None
) -> tuple[_Floats, NDArray[np.intp]]:
    """Sum of the scores and number of questions of each cluster."""
    if clusters is None:
        return values, np.ones(len(values), dtype=np.intp)
    _check_aligned(clusters=clusters, scores=values)
    index = number_clusters(clusters)
    return np.bincount(index, weights=values).astype(np.float64), np.bincount(index)


def _resampled_means(
    sums: _Floats, sizes: NDArray[np.intp], resamples: int, rng: np.random.Generator
) -> _Floats:
    """The mean score of each bootstrap sample of the clusters."""
    # Clusters of equal sum and size are interchangeable, so it is enough to draw how many there are
    # of each kind: accuracies have few values, and 10^5 clusters come down to some hundred kinds.
    table, counts = np.unique(np.stack([sums.round(9), sizes], 1), axis=0, return_counts=True)
    means = np.empty(resamples)
    step = max(1, _DRAWN_AT_ONCE // len(table))
    for start in range(0, resamples, step):
        stop = min(start + step, resamples)
        drawn = rng.multinomial(len(sums), counts / len(sums), size=stop - start)
        total, questions = (drawn @ table).T
        means[start:stop] = total / questions
    return means
