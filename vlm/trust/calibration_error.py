"""How far probabilities are from what they promise: ECE, MCE, Brier score, NLL.

`scores` (Q,) are accuracies in [0, 1], which may be graded; `probability` (Q,) is that of each
answer, in [0, 1]. Calibrated means: of the answers given 80 %, the mean accuracy is 80 %.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from vlm.trust.selective import Floats, checked

BINS = 15
Binning = Literal["width", "mass"]


class Reliability(NamedTuple):
    """The bins of a reliability diagram that have questions.

    Attributes:
        questions: (B,) how many.
        probability: (B,) mean probability.
        accuracy: (B,) mean score.
    """

    questions: Floats
    probability: Floats
    accuracy: Floats


def reliability(
    scores: ArrayLike, probability: ArrayLike, bins: int = BINS, binning: Binning = "width"
) -> Reliability:
    """Questions by their probability, for a diagram (Niculescu-Mizil & Caruana 2005).

    Args:
        scores: accuracy of each answer.
        probability: probability of each answer.
        bins: number of bins.
        binning: "width" for bins (k / bins, (k + 1) / bins], "mass" for bins with as many questions
            each as ties allow: equal probabilities share a bin.

    Raises:
        ValueError: as `risk_coverage`, or a probability outside [0, 1].
    """
    s, p = checked(scores, probability)
    if not ((p >= 0) & (p <= 1)).all():
        wrong = p[~((p >= 0) & (p <= 1))][0]
        raise ValueError(f"probability: got {wrong}; expected values in [0, 1].")
    # Upper ends of the bins.
    if binning == "width":
        ends = np.arange(1, bins + 1) / bins
    else:  # the last question of each bin, rounded up in whole numbers
        ends = np.unique(np.sort(p)[(np.arange(1, bins + 1) * len(p) - 1) // bins])
    index = np.searchsorted(ends[:-1], p, side="left")
    count = np.bincount(index).astype(np.float64)
    full = count > 0
    means = (np.bincount(index, weights=values)[full] / count[full] for values in (p, s))
    return Reliability(count[full], *means)


def ece(
    scores: ArrayLike, probability: ArrayLike, bins: int = BINS, binning: Binning = "width"
) -> float:
    """Expected calibration error, sum_b n_b / n |accuracy_b - probability_b|, in [0, 1] (Guo et al.
    2017, arXiv 1706.04599, equation 3); arguments as for `reliability`.

    Biased upwards: the noise of each bin counts as an error, the more so the fewer questions.
    """
    found = reliability(scores, probability, bins, binning)
    gaps = np.abs(found.accuracy - found.probability)
    return float((found.questions * gaps).sum() / found.questions.sum())


def mce(scores: ArrayLike, probability: ArrayLike, bins: int = BINS) -> float:
    """Largest gap of a bin, in [0, 1] (Guo et al. 2017, equation 5); a bin may be one question."""
    found = reliability(scores, probability, bins)
    return float(np.abs(found.accuracy - found.probability).max())


def brier(scores: ArrayLike, probability: ArrayLike) -> float:
    """Mean squared difference of probability and score, in [0, 1] (Brier 1950)."""
    s, p = checked(scores, probability)
    return float(((p - s) ** 2).mean())


def nll(scores: ArrayLike, probability: ArrayLike) -> float:
    """Mean of -(s ln p + (1 - s) ln(1 - p)), in nats.

    Probabilities are kept 1e-6 from 0 and 1, as they are written to files, so that one certain and
    wrong answer counts 13.8 and not infinitely much.
    """
    s, p = checked(scores, probability)
    p = p.clip(1e-6, 1 - 1e-6)
    return float(-(s * np.log(p) + (1 - s) * np.log1p(-p)).mean())
