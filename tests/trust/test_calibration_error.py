"""Beside torchmetrics, and by hand for graded scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error

from vlm.trust.calibration_error import brier, ece, mce, nll, reliability

NORMS: list[tuple[Literal["l1", "max"], Callable[..., float]]] = [("l1", ece), ("max", mce)]


@pytest.mark.parametrize("decimals", [2, 9])
def test_equals_torchmetrics(decimals: int) -> None:
    rng = np.random.default_rng(0)
    # Off the edges of the bins, where float32 and float64 choose different ones.
    p = (0.99 * rng.random(1000)).round(decimals) + 1e-4
    s = (rng.random(1000) < p**2).astype(float)
    logits, target = torch.from_numpy(p), torch.from_numpy(s).int()
    for norm, ours in NORMS:
        theirs = binary_calibration_error(logits, target, n_bins=15, norm=norm)
        assert ours(s, p) == pytest.approx(theirs.item(), abs=1e-6)


def test_by_hand() -> None:
    scores, probability = [1, 0.6, 0, 1], [0.9, 0.9, 0.2, 0.25]
    assert ece(scores, probability, bins=2) == pytest.approx((2 * 0.1 + 2 * 0.275) / 4)
    assert mce(scores, probability, bins=2) == pytest.approx(0.275)
    assert brier(scores, probability) == pytest.approx((0.01 + 0.09 + 0.04 + 0.5625) / 4)
    assert nll([1, 0], [0.5, 0.5]) == pytest.approx(np.log(2))
    assert nll([0], [1]) == pytest.approx(-np.log(1e-6), rel=1e-6)


def test_bins_of_equal_mass() -> None:
    found = reliability(np.ones(10), np.arange(10) / 10, bins=5, binning="mass")
    assert found.questions.tolist() == [2] * 5
    tied = reliability([1, 0] * 5, [0.7] * 10, bins=5, binning="mass")
    assert tied.questions.tolist() == [10]
    assert ece([1, 0] * 5, [0.7] * 10, 5, "mass") == pytest.approx(0.2)


def test_a_probability_outside_is_refused() -> None:
    with pytest.raises(ValueError, match=r"probability: got 1\.2"):
        ece([1], [1.2])
