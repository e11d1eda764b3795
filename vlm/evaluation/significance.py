"""How sure a mean over seeds and questions is, and whether two fusions differ.

Scores form a table (S seeds, Q questions). A mean of it would come out differently with other seeds
and with other images, so both enter its variance:

    V_seeds  = s^2 / S,  s^2 the variance of the S seeds' means
    V_images = C / (C - 1) * sum_c z_c^2 / Q^2,  z_c the sum over image c of (score - mean)

with scores averaged over seeds and the C images as clusters: questions about one image are not
independent. Student's t at Satterthwaite's degrees of freedom, rounded down, gives interval and p
value. Resampling three seeds would not do: it never leaves their range, so that three differences
of one sign, which chance gives in one case of four, would pass for certain.

The sum counts the interaction of seed and image twice: it errs on the safe side.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from vlm.metrics.aggregate import bootstrap_interval, number_clusters

Scores = NDArray[np.float64]


class Estimate(NamedTuple):
    """A mean with its 95 % interval, and the p value of its being 0 (two-sided)."""

    mean: float
    low: float
    high: float
    p: float


class Difference(NamedTuple):
    """One fusion's accuracy minus the best's, paired by seed and question; its p value after Holm's
    correction over all pairs of fusions, and the number of seeds that both have."""

    name: str
    estimate: Estimate
    p_holm: float
    seeds: int


def estimate(scores: Scores, images: Sequence[Hashable], level: float = 0.95) -> Estimate:
    """Mean of a table (S, Q) of scores, or of differences of scores, with an interval over the
    images of the questions.

    With one seed the interval holds for other images and says nothing about other seeds.

    Raises:
        ValueError: an empty table, or images that are not one per question.
    """
    if scores.ndim != 2 or not scores.size or len(images) != scores.shape[1]:
        raise ValueError(
            f"scores, images: got shape {scores.shape} and {len(images)} images; expected (S, Q) "
            f"scores and Q images."
        )
    seeds, questions = scores.shape
    mean = float(scores.mean())
    sums = np.bincount(number_clusters(images), weights=scores.mean(0) - mean)  # (C,)
    count = len(sums)
    of_seeds = float(scores.mean(1).var(ddof=1)) / seeds if seeds > 1 else 0.0
    of_images = count / (count - 1) * float((sums**2).sum()) / questions**2 if count > 1 else 0.0
    variance = of_seeds + of_images
    if variance < 1e-18:
        return _without_spread(mean, count)
    parts = [(of_seeds, seeds - 1), (of_images, count - 1)]
    freedom = max(1, math.floor(variance**2 / sum(v**2 / n for v, n in parts if v)))
    error = math.sqrt(variance)
    half = float(stdtrit(freedom, (1 + level) / 2)) * error
    p = 2 * float(stdtr(freedom, -abs(mean) / error))
    return Estimate(mean, mean - half, mean + half, p)


def _without_spread(mean: float, count: int) -> Estimate:
    """All images agree, as they do where every answer is right."""
    # The sign test: so many images all on one side.
    p = 1.0 if abs(mean) < 1e-12 else min(1.0, 2.0 ** (1 - count))
    return Estimate(mean, mean, mean, p)


def accuracy(scores: Scores, images: Sequence[Hashable]) -> Estimate:
    """Mean accuracy with its interval inside [0, 1]."""
    found = estimate(scores, images)
    if found.low == found.high:  # all right, or all wrong: not certain for other images
        exact = bootstrap_interval(scores.mean(0), list(images), resamples=1)
        return found._replace(low=exact.low, high=exact.high)
    return found._replace(low=max(0.0, found.low), high=min(1.0, found.high))


def holm(values: Sequence[float]) -> list[float]:
    """P values corrected for their number (Holm 1979), in the order given.

    If all those below 0.05 after it are called different, the chance of one false call among
    them is at most 5 %.
    """
    p = np.asarray(values, dtype=np.float64)
    order = p.argsort(kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return list(map(float, corrected))


def against_best(
    scores: dict[str, dict[int, Scores]], images: Sequence[Hashable]
) -> tuple[str, list[Difference]]:
    """The best of a list of scores (Q,) by name and seed, and each other one's distance from it.

    Pairs are runs of one seed, which share order of training and validation part, on the same
    questions. The best is only known from these scores. So the correction is for all pairs, any of
    which could have been shown: with as many fusions alike, the chance of one false call is at most
    5 %.

    Returns:
        The name with the highest mean among those with most seeds, and the others in the order
        given; those without a seed in common with the best are left out.
    """
    best = max(
        scores, key=lambda name: (len(scores[name]), float(np.mean([*scores[name].values()])))
    )
    found: dict[tuple[str, str], tuple[Estimate, int]] = {}
    for name, other in combinations(scores, 2):
        one, two = (name, other) if other == best else (other, name)
        shared = [seed for seed in scores[one] if seed in scores[two]]
        if shared:
            pairs = np.stack([scores[one][seed] - scores[two][seed] for seed in shared])
            found[one, two] = estimate(pairs, images), len(shared)
    corrected = dict(zip(found, holm([each.p for each, _ in found.values()]), strict=True))
    return best, [
        Difference(name, found[name, best][0], corrected[name, best], found[name, best][1])
        for name in scores
        if (name, best) in found
    ]
