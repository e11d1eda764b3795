"""Values worked out by hand, and what a threshold must not do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vlm.trust.sections import coverage_at
from vlm.trust.selective import (
    auroc_of_error,
    best_threshold,
    cluster_bootstrap,
    coverage_at_risk,
    effective_reliability,
    measurable,
    risk_coverage,
)


def test_ties_are_answered_together() -> None:
    # Of the two at 0.8 one is right: a threshold cannot take it alone.
    curve = risk_coverage([1, 1, 0, 0], [0.9, 0.8, 0.8, 0.1])
    assert curve.coverage.tolist() == [0.25, 0.75, 1]
    assert curve.risk == pytest.approx([0, 1 / 3, 0.5])
    assert coverage_at_risk([1, 1, 0, 0], [0.9, 0.8, 0.8, 0.1], 0.05) == (0.25, 0.9)
    assert coverage_at_risk([1, 1, 0, 0], [0.9, 0.8, 0.8, 0.1], 0.34) == (0.75, 0.8)


def test_the_order_of_ties_changes_nothing() -> None:
    for scores in ([1, 0, 1], [0, 1, 1], [1, 1, 0]):
        assert coverage_at_risk(scores, [0.5] * 3, 0.2) == (0, float("inf"))
        assert coverage_at_risk(scores, [0.5] * 3, 0.34) == (1, 0.5)


def test_phi_by_hand() -> None:
    scores, confidence = [1, 0.3, 0, 0], [0.9, 0.8, 0.7, 0.1]
    assert effective_reliability(scores, confidence, 0.7, 10) == pytest.approx((1.3 - 10) / 4)
    assert best_threshold(scores, confidence, 10) == 0.8
    assert best_threshold([0, 1], [0.9, 0.1], 1) == 0.1
    assert best_threshold([0, 1], [0.9, 0.1], 10) == float("inf")


def test_auroc_counts_pairs() -> None:
    assert auroc_of_error([1, 1, 0, 0], [0.9, 0.5, 0.5, 0.1]) == pytest.approx(3.5 / 4)
    assert np.isnan(auroc_of_error([1, 1], [0.9, 0.5]))


def test_299_right_answers_show_one_percent() -> None:
    assert not measurable(298, 0.01)
    assert measurable(299, 0.01)


def test_eight_right_answers_show_no_coverage_at_one_percent() -> None:
    subject: Any = SimpleNamespace(clusters=range(400))
    scores, p = np.zeros(400), np.linspace(0, 1, 400)
    scores[-20:] = 1
    assert np.isnan(coverage_at(subject, 0.01)(scores, p))
    assert coverage_at(subject, 0.2)(scores, p) == 25 / 400
    assert coverage_at(subject, 0.01)(np.zeros(400), p) == 0
    assert coverage_at(subject, 0.01)(np.ones(400), p) == 1
    subject.clusters = range(9)
    assert np.isnan(coverage_at(subject, 0.2)(scores, p))


def test_images_are_drawn_whole() -> None:
    scores = np.repeat([0.0, 1.0] * 20, 10)
    images = np.repeat(range(40), 10).tolist()
    alone = cluster_bootstrap(lambda rows: float(scores[rows].mean()), range(400), 200)
    whole = cluster_bootstrap(lambda rows: float(scores[rows].mean()), images, 200)
    # The standard error of 40 images is sqrt(10) times that of 400 questions.
    ratio = np.ptp(whole) / np.ptp(alone)
    assert ratio == pytest.approx(np.sqrt(10), rel=0.25)


def test_an_undefined_statistic_has_no_interval() -> None:
    for value in (float("nan"), 0.0):  # nor does one that no draw changes
        low, high = cluster_bootstrap(lambda rows, value=value: value, range(5), 50)
        assert np.isnan([low, high]).all()


@pytest.mark.parametrize(
    ("scores", "confidence", "match"),
    [
        ([], [], "Q at least 1"),
        ([1, 0], [0.5], r"\(2,\) and \(1,\)"),
        ([1.5], [0.5], "1.5"),
        ([float("nan")], [0.5], "nan"),
        ([1], [float("nan")], "NaN"),
    ],
)
def test_mistakes(scores: list[float], confidence: list[float], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        risk_coverage(scores, confidence)
