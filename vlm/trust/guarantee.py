"""Thresholds that keep a risk, and sets that hold the right answer, for questions not yet asked.

Images are the independent units, or the groups that they belong to (a patient, a scene): questions
about one may be wrong together, so it counts once, with the mean error of its answered questions.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.stats import binom

from vlm.core.calibration import Threshold
from vlm.trust.selective import Floats, needed

STEPS = 200
"""Thresholds that are tried at most."""


class Part(NamedTuple):
    """The questions of a part of validation.

    Attributes:
        scores: (Q,) accuracy of each answer, in [0, 1].
        confidence: (Q,) its probability.
        images: (Q,) its image, or group of images, as a number from 0.
    """

    scores: Floats
    confidence: Floats
    images: np.ndarray

    @property
    def simple(self) -> bool:
        """Whether each image has one question, and each answer is right or wrong."""
        alone = len(np.unique(self.images)) == len(self.images)
        return alone and bool(np.isin(self.scores, (0, 1)).all())


def p_value(part: Part, threshold: float, risk: float) -> float:
    """The p value of "the risk at this threshold is above `risk`", 1 where nothing is answered.

    Exact binomial where each image has one question that is right or wrong, else the bound of
    Hoeffding and Bentkus for the mean of bounded values (Bates et al. 2021, arXiv 2101.02703,
    proposition 4). The risk is the mean over images of their answered questions' mean error.
    """
    answered = part.confidence >= threshold
    images = part.images[answered]
    if not len(images):
        return 1.0
    counts = np.bincount(images)
    sums = np.bincount(images, weights=1 - part.scores[answered])
    n = int((counts > 0).sum())
    mean = float((sums[counts > 0] / counts[counts > 0]).mean())
    if mean >= risk:
        return 1.0
    errors = math.ceil(n * mean - 1e-9)
    tail = float(binom.cdf(errors, n, risk))
    if part.simple:
        return tail
    return min(1.0, math.exp(-n * _divergence(mean, risk)), math.e * tail)


def certify(selection: Part, calibration: Part, risk: float, delta: float) -> Threshold:
    """The lowest threshold whose risk is at most `risk`, wrong with a probability of at most
    `delta`.

    Learn then test (Angelopoulos et al. 2021, arXiv 2110.01052, section 3.2, split fixed sequence):
    the selection part says which thresholds are tried and in which order, from its most promising
    one downwards; the calibration part tests each at level `delta`, until the first that fails.
    """
    answered = len(np.unique(calibration.images))
    if answered < (least := needed(risk, delta)):
        return Threshold(
            risk,
            None,
            why=f"not measurable: needs {least:,} images even without an error; the calibration "
            f"part has {answered:,}",
        )
    steps = np.linspace(1, 0, STEPS)
    quantiles = np.quantile(selection.confidence, steps, method="inverted_cdf")
    tried = np.unique([0, *quantiles])[::-1]  # 0 answers everything
    start = int(np.argmin([p_value(selection, t, risk) for t in tried]))
    held: float | None = None
    for threshold in tried[start:].tolist():
        if p_value(calibration, threshold, risk) > delta:
            break
        held = threshold
    if held is None:
        return Threshold(risk, None, why="no threshold passed the test on validation")
    return Threshold(risk, held, float((calibration.confidence >= held).mean()))


def set_threshold(of_right: Floats, images: np.ndarray, coverage: float = 0.9) -> float:
    """The probability from which answers belong to a prediction set, so that the sets hold the
    right answer of `coverage` of the questions.

    Split conformal prediction with the score 1 - p (Sadinle et al. 2019, arXiv 1609.00451), each
    image with the same weight (Dunn et al. 2022, arXiv 1809.07441, pooled): exact where each image
    has one question, and approached with the number of images otherwise.

    Args:
        of_right: (Q,) probability of the right answer of each calibration question; -inf where the
            model cannot give it.
        images: (Q,) its image, as a number from 0.
        coverage: share of the questions, in (0, 1).

    Returns:
        The threshold; 0, with which sets hold all that the model can answer, where images are too
        few, or too many right answers are beyond it.
    """
    counts = np.bincount(images)
    weights = 1 / counts[images] / (int((counts > 0).sum()) + 1)  # 1 / (m + 1) for each image
    order = np.argsort(-of_right, kind="stable")
    reached = np.flatnonzero(np.cumsum(weights[order]) >= coverage - 1e-12)
    return max(0.0, float(of_right[order][reached[0]])) if len(reached) else 0.0


def _divergence(mean: float, risk: float) -> float:
    """Of two Bernoulli distributions (Kullback-Leibler)."""
    left = mean * math.log(mean / risk) if mean > 0 else 0.0
    return left + (1 - mean) * math.log((1 - mean) / (1 - risk))
