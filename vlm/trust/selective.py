"""Selective answering: what is lost and won by not answering where the confidence is low.

Everywhere `scores` are the accuracies (Q,) of the answers by the data set's own metric, in [0, 1],
and `confidence` (Q,) is what the questions are ranked by. Questions of equal confidence are
answered together or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlm.metrics.aggregate import number_clusters

Floats = NDArray[np.float64]
LEVEL = 0.95
RISKS = (0.01, 0.05, 0.10, 0.20)
"""Risks that thresholds are found for."""
COSTS = (1, 10, 100)
"""Costs of a wrong answer that the effective reliability is reported for."""


class Curve(NamedTuple):
    """Risk at each coverage that a threshold can reach, from the smallest coverage to 1.

    Attributes:
        coverage: (K,) share of the questions answered.
        risk: (K,) mean error 1 - score among them.
        threshold: (K,) lowest confidence among them.
    """

    coverage: Floats
    risk: Floats
    threshold: Floats


class Coverage(NamedTuple):
    """The largest coverage within a risk, and the lowest confidence that is answered there; inf,
    with coverage 0, where no threshold keeps the risk."""

    coverage: float
    threshold: float


def risk_coverage(scores: ArrayLike, confidence: ArrayLike) -> Curve:
    """The risk-coverage curve (El-Yaniv & Wiener 2010; graded scores as Whitehead et al. 2022).

    Raises:
        ValueError: no questions, columns of different length, scores or confidences that are NaN,
            or scores outside [0, 1].

    Example:
        >>> curve = risk_coverage([1, 0, 1, 0], [0.9, 0.8, 0.8, 0.1])
        >>> curve.coverage.tolist(), curve.risk.round(3).tolist()
        ([0.25, 0.75, 1.0], [0.0, 0.333, 0.5])
    """
    s, p = checked(scores, confidence)
    order = np.argsort(-p, kind="stable")
    s, p = s[order], p[order]
    last = np.append(p[1:] != p[:-1], True)  # of each group of ties
    answered = np.arange(1, len(s) + 1)
    risk = np.cumsum(1 - s) / answered
    return Curve(answered[last] / len(s), risk[last], p[last])


def coverage_at_risk(scores: ArrayLike, confidence: ArrayLike, risk: float) -> Coverage:
    """C@R: the largest coverage whose risk is at most `risk`, in [0, 1].

    It picks its threshold on the very questions that it is measured on, so it is an optimum and no
    promise for others.
    """
    curve = risk_coverage(scores, confidence)
    good = np.flatnonzero(curve.risk <= risk + 1e-12)
    if not len(good):
        return Coverage(0.0, float("inf"))
    return Coverage(float(curve.coverage[good[-1]]), float(curve.threshold[good[-1]]))


def aurc(scores: ArrayLike, confidence: ArrayLike) -> float:
    """Area under the risk-coverage curve, in [0, 1], low is good (Geifman et al. 2019).

    The trapezoidal rule; left of the first threshold the risk is taken to be what it is there.
    """
    curve = risk_coverage(scores, confidence)
    risk, coverage = np.insert(curve.risk, 0, curve.risk[0]), np.insert(curve.coverage, 0, 0)
    return float(np.trapezoid(risk, coverage))


def e_aurc(scores: ArrayLike, confidence: ArrayLike) -> float:
    """`aurc` less that of an ideal order of the same answers, in [0, 1] (Geifman et al. 2019).

    The ideal is e + (1 - e) ln(1 - e) for a share e of errors, or, where scores are graded, the
    area with the best answers first, one by one.
    """
    s, _ = checked(scores, confidence)
    error = float(1 - s.mean())
    if not np.isin(s, (0, 1)).all():
        risk = np.cumsum(1 - np.sort(s)[::-1]) / np.arange(1, len(s) + 1)
        ideal = float(np.trapezoid(risk, dx=1 / len(s)))
    else:
        ideal = error + (1 - error) * float(np.log1p(-error)) if error < 1 else 1.0
    return aurc(scores, confidence) - ideal


def augrc(scores: ArrayLike, confidence: ArrayLike) -> float:
    """Area under the generalised risk, errors among the answered / all questions, by coverage.

    It is the chance that of a random question the answer is wrong and given; 0.5 e^2 at best with
    e the share of errors (Traub et al. 2024, arXiv 2407.01032, equation 4).
    """
    curve = risk_coverage(scores, confidence)
    coverage = np.insert(curve.coverage, 0, 0)
    return float(np.trapezoid(np.insert(curve.risk * curve.coverage, 0, 0), coverage))


def effective_reliability(
    scores: ArrayLike, confidence: ArrayLike, threshold: float, cost: float
) -> float:
    """Phi_c (Whitehead et al. 2022, arXiv 2204.13631, equation 4), in [-cost, 1], high is good.

    The mean over questions of the score where an answer is given and earns something, -`cost` where
    it is given and earns nothing, and 0 where the confidence is below the threshold.
    """
    s, p = checked(scores, confidence)
    return float(np.where(p >= threshold, np.where(s > 0, s, -cost), 0.0).mean())


def best_threshold(scores: ArrayLike, confidence: ArrayLike, cost: float) -> float:
    """The threshold of the largest Phi_c on these questions, the highest of several; inf, which
    answers nothing, where no threshold reaches 0 or more.

    Choose it on other questions than those that it is judged on.
    """
    s, p = checked(scores, confidence)
    order = np.argsort(-p, kind="stable")
    s, p = s[order], p[order]
    sums = np.cumsum(np.where(s > 0, s, -cost))[np.append(p[1:] != p[:-1], True)]
    best = int(sums.argmax())
    return float(np.unique(p)[::-1][best]) if sums[best] >= 0 else float("inf")


def auroc_of_error(scores: ArrayLike, confidence: ArrayLike) -> float:
    """The chance that a right answer has more confidence than a wrong one, ties counting half; NaN
    where there are none of either. An answer is wrong to the share 1 - score."""
    s, p = checked(scores, confidence)
    values, index = np.unique(p, return_inverse=True)
    right = np.bincount(index, weights=s, minlength=len(values))
    wrong = np.bincount(index, weights=1 - s, minlength=len(values))
    if not right.sum() or not wrong.sum():
        return float("nan")
    below = np.cumsum(wrong) - wrong
    return float((right * (below + wrong / 2)).sum() / (right.sum() * wrong.sum()))


def measurable(questions: int, risk: float, level: float = LEVEL) -> bool:
    """Whether so many answered questions could show a risk below `risk` at all: not one error in n
    shows it with confidence `level` only if (1 - risk)^n <= 1 - level, n >= 299 for 1 %."""
    return questions >= needed(risk, 1 - level)


def needed(risk: float, delta: float) -> int:
    """How many independent answers without an error show a risk of at most `risk` with error
    probability `delta`.

    Example:
        >>> needed(0.01, 0.05), needed(0.2, 0.05)
        (299, 14)
    """
    return int(np.ceil(np.log(delta) / np.log1p(-risk)))


def cluster_bootstrap(
    statistic: Callable[[NDArray[np.intp]], float],
    clusters: Sequence[Hashable],
    resamples: int = 500,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % percentile interval of any statistic, drawing whole clusters with their questions.

    Args:
        statistic: called with the rows (Q',) that were drawn; NaN where it is not defined.
        clusters: cluster of each question, such as its image.
        resamples: number of draws.
        seed: seed of the draws.

    Returns:
        Both ends. NaN where the statistic was undefined in one draw of twenty or more, or the same
        in all: the clusters at hand do not show how it varies.
    """
    numbers = np.asarray(number_clusters(clusters))
    order = np.argsort(numbers, kind="stable")
    sizes = np.bincount(numbers)
    starts = np.cumsum(sizes) - sizes
    rng = np.random.default_rng(seed)
    found = np.empty(resamples)
    for draw in range(resamples):
        drawn = rng.integers(len(sizes), size=len(sizes))
        lengths = sizes[drawn]
        offsets = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        found[draw] = statistic(order[np.repeat(starts[drawn], lengths) + offsets])
    defined = found[~np.isnan(found)]
    if len(defined) <= 0.95 * resamples or np.ptp(defined) <= 1e-12:
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def checked(scores: ArrayLike, confidence: ArrayLike) -> tuple[Floats, Floats]:
    """Both as (Q,) floats; a mistake is a ValueError."""
    s, p = np.asarray(scores, np.float64), np.asarray(confidence, np.float64)
    if s.ndim != 1 or s.shape != p.shape or not len(s):
        raise ValueError(
            f"scores, confidence: got shapes {s.shape} and {p.shape}; expected (Q,) of each, with "
            f"Q at least 1."
        )
    if not ((s >= 0) & (s <= 1)).all():
        raise ValueError(f"scores: got {s[~((s >= 0) & (s <= 1))][0]}; expected values in [0, 1].")
    if np.isnan(p).any():
        raise ValueError("confidence: got NaN; expected a number for each question.")
    return s, p
