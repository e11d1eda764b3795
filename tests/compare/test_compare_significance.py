"""Confidence intervals and p-values match cases worked out by hand and simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vlm.evaluation.significance import accuracy, against_best, estimate, holm


def test_two_seeds_and_three_images_by_hand() -> None:
    """The questions' images are a, a, b, c. Seed means are 1/2 and 1/4, the overall mean is 3/8
    and the question means are 1/2, 1, 0, 0. The sums of (score - mean) per image are
    a: 1/2 + 1 - 6/8 = 6/8, b: -3/8, c: -3/8."""
    scores = np.array([[1.0, 1, 0, 0], [0, 1, 0, 0]])
    of_seeds = (0.125**2 + 0.125**2) / 1 / 2
    of_images = 3 / 2 * (0.75**2 + 0.375**2 + 0.375**2) / 4**2
    variance = of_seeds + of_images
    freedom = math.floor(variance**2 / (of_seeds**2 / 1 + of_images**2 / 2))
    assert freedom == 2
    found = estimate(scores, ["a", "a", "b", "c"])
    assert found.mean == 0.375
    # Closed forms for two degrees of freedom: t = 4.30265..., p = 1 - t / sqrt(2 + t^2).
    t = 0.375 / math.sqrt(variance)
    assert found.p == pytest.approx(1 - t / math.sqrt(2 + t * t), abs=1e-12)
    assert found.high - found.mean == pytest.approx(4.302652730 * math.sqrt(variance), rel=1e-9)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)


def test_questions_about_one_image_count_as_one() -> None:
    scores = np.array([[1.0, 0, 1, 0, 1, 1]])
    alone = estimate(scores, ["a", "b", "c", "d", "e", "f"])
    twice = estimate(scores.repeat(2, 1), [image for image in "abcdef" for _ in range(2)])
    assert twice == pytest.approx(alone)
    assert estimate(scores.repeat(2, 1), list(range(12))).high < alone.high


def test_seeds_that_disagree_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    one = (rng.random(400) < 0.9).astype(float)
    images = list(range(400))
    same = estimate(np.stack([one, one, one]), images)
    shift = np.array([[0.05], [0.0], [-0.05]])
    other = estimate(np.stack([one, one, one]) + shift, images)
    assert other.mean == pytest.approx(same.mean)
    assert other.high - other.low > 2 * (same.high - same.low)


@pytest.mark.parametrize(("seeds", "of_seed"), [(1, 0.0), (3, 0.0), (3, 0.05), (5, 0.02)])
def test_five_percent_of_equal_pairs_are_called_different(seeds: int, of_seed: float) -> None:
    rng = np.random.default_rng(0)
    images = [image for image in range(40) for _ in range(3)]
    rejected, repeats = 0, 600
    for _ in range(repeats):
        seed = rng.normal(0, of_seed, (seeds, 1))
        picture = rng.normal(0, 0.2, 40).repeat(3)
        found = estimate(seed + picture + rng.normal(0, 0.2, (seeds, 120)), images)
        rejected += found.p < 0.05
        assert (found.p < 0.05) == (not found.low <= 0 <= found.high)
    # 5 % +- 3 standard errors, with some slack because three seeds are few.
    assert rejected / repeats < 0.05 + 3 * math.sqrt(0.05 * 0.95 / repeats) + 0.005


def test_all_right_is_not_certain() -> None:
    found = accuracy(np.ones((3, 10)), list(range(10)))
    assert found.mean == found.high == 1
    assert found.low == pytest.approx(0.025 ** (1 / 10))
    assert estimate(np.zeros((3, 10)), list(range(10))).p == 1
    # All ten images agree in sign: the sign test.
    assert estimate(np.full((3, 10), 0.1), list(range(10))).p == 2 / 2**10


def test_accuracy_stays_between_0_and_1() -> None:
    found = accuracy(np.array([[1.0] * 9 + [0.0], [1.0] * 10]), list(range(10)))
    assert 0 <= found.low < found.mean < found.high == 1


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_pairs_are_of_one_seed_and_the_best_is_the_mean_best() -> None:
    rng = np.random.default_rng(1)
    by_seed = {seed: (rng.random(200) < 0.8).astype(float) for seed in (0, 1, 2)}
    scores = {
        "best": by_seed,
        "one seed failed": {seed: by_seed[seed] * (np.arange(200) > 0) for seed in (2, 0)},
        "worse": {seed: row * (rng.random(200) < 0.7) for seed, row in by_seed.items()},
    }
    scores["one seed failed"][0][:5] = 0
    best, found = against_best(scores, list(range(200)))
    assert best == "best"
    assert [row.name for row in found] == ["one seed failed", "worse"]
    close, far = found
    expected = np.mean([(scores["one seed failed"][s] - by_seed[s]).mean() for s in (0, 2)])
    assert close.estimate.mean == pytest.approx(expected)
    assert far.estimate.p < 0.01 < 0.05 < close.p_holm
    assert far.estimate.p < far.p_holm <= 3 * far.estimate.p, "three pairs"
    assert (close.seeds, far.seeds) == (2, 3)
    # A single good seed does not make a fusion the best.
    lucky = scores | {"lucky": {0: np.ones(200)}}
    assert against_best(lucky, list(range(200)))[0] == "best"


def test_of_equal_fusions_few_are_called_worse() -> None:
    """Though the best is chosen by the scores that it is compared by."""
    rng, images = np.random.default_rng(0), list(range(80))
    false = 0
    for _ in range(300):
        drawn = {name: {0: (rng.random(80) < 0.7).astype(float)} for name in "abcdefgh"}
        false += any(row.p_holm < 0.05 for row in against_best(drawn, images)[1])
    assert false / 300 < 0.08


def test_tables_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"got shape \(1, 3\) and 2 images"):
        estimate(np.zeros((1, 3)), ["a", "b"])
