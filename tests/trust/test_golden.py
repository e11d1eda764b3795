"""Beside reliable_vqa's evaluator (Whitehead et al. 2022) and fd-shifts (Traub et al. 2024)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlm.metrics import vqa_accuracy
from vlm.trust.selective import (
    COSTS,
    RISKS,
    augrc,
    aurc,
    best_threshold,
    coverage_at_risk,
    e_aurc,
    effective_reliability,
    risk_coverage,
)

FOLDER = Path(__file__).parents[1] / "golden/trust"


def columns(rows: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    scores = [vqa_accuracy(row["answer"], row["answers"]) for row in rows]
    return scores, [row["confidence"] for row in rows]


@pytest.fixture(params=["small_40", "ties_300", "no_ties_500"])
def golden(request: pytest.FixtureRequest) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / f"{request.param}.json").read_text())
    return content


def test_scores_are_the_reference_s(golden: dict[str, Any]) -> None:
    scores, _ = columns(golden["test"])
    assert scores == pytest.approx(golden["accuracy_of_test"], abs=1e-9)


def test_coverage_at_risk(golden: dict[str, Any]) -> None:
    confidence = [row["confidence"] for row in golden["test"]]
    for risk in RISKS:
        expected = golden["reliable_vqa"][f"cov@{risk:g}"]
        found = coverage_at_risk(golden["accuracy_of_test"], confidence, risk)
        assert 100 * found.coverage == pytest.approx(expected["coverage"], abs=1e-9)
        if expected["coverage"]:
            assert found.threshold == pytest.approx(expected["threshold"], abs=1e-9)
        else:  # the reference writes 0
            assert found.threshold == float("inf")


def test_effective_reliability_at_the_threshold_of_validation(golden: dict[str, Any]) -> None:
    known, known_confidence = columns(golden["validation"])
    confidence = np.array([row["confidence"] for row in golden["test"]])
    scores = golden["accuracy_of_test"]
    ties = len(set(known_confidence)) < 0.9 * len(known)
    for cost in COSTS:
        expected = golden["reliable_vqa"][f"phi@{cost}"]
        theirs = expected["threshold"]
        threshold = best_threshold(known, known_confidence, cost)
        if not ties:
            assert threshold == pytest.approx(theirs, abs=1e-9)
        # The reference takes questions of equal confidence one by one, the right ones first, though
        # no threshold divides them: ours is never worse on the questions that it is chosen on.
        ours, other = (
            effective_reliability(known, known_confidence, t, cost) for t in (threshold, theirs)
        )
        assert ours >= other - 1e-9
        phi = effective_reliability(scores, confidence, theirs, cost)
        assert 100 * phi == pytest.approx(expected["phi"], abs=1e-9)
        without = effective_reliability(scores, confidence, 0, cost)
        assert 100 * without == pytest.approx(expected["no_abstention_phi"], abs=1e-9)
        answered = confidence >= theirs
        assert 100 * answered.mean() == pytest.approx(expected["coverage"], abs=1e-9)
        risk = 1 - np.asarray(scores)[answered].mean()
        assert 100 * risk == pytest.approx(expected["risk"], abs=1e-9)


@pytest.mark.parametrize("kind", ["graded", "binary"])
def test_areas(golden: dict[str, Any], kind: str) -> None:
    confidence = [row["confidence"] for row in golden["test"]]
    scores = np.asarray(golden["accuracy_of_test"])
    scores = scores if kind == "graded" else (scores >= 0.5).astype(float)
    expected = golden["fd_shifts"][kind]
    assert 1000 * aurc(scores, confidence) == pytest.approx(expected["aurc"])
    assert 1000 * e_aurc(scores, confidence) == pytest.approx(expected["eaurc"])
    assert 1000 * augrc(scores, confidence) == pytest.approx(expected["augrc"])


def test_the_last_point_of_the_curve_is_the_error(golden: dict[str, Any]) -> None:
    confidence = [row["confidence"] for row in golden["test"]]
    curve = risk_coverage(golden["accuracy_of_test"], confidence)
    assert curve.coverage[-1] == 1
    assert 100 * (1 - curve.risk[-1]) == pytest.approx(golden["reliable_vqa"]["vqa_accuracy"])
