"""Intervals in cases with a known answer."""

import math
import tracemalloc

import numpy as np
import pytest

from vlm.metrics import Mean, accuracy_by, bootstrap_interval, seed_interval


def test_accuracy_by_type():
    groups = accuracy_by([1, 0.3, 0.6, 0], ["yes/no", "other", "other", "yes/no"])
    assert groups == {"yes/no": Mean(0.5, 2), "other": Mean(pytest.approx(0.45), 2)}
    assert list(groups) == ["yes/no", "other"]
    assert accuracy_by([], []) == {}
    with pytest.raises(ValueError, match="scores has length 1 and keys 2"):
        accuracy_by([1], ["a", "b"])


def test_bootstrap_of_coins_has_the_width_of_the_normal_approximation():
    scores = np.repeat([0.0, 1.0], [600, 1400])
    low, high, over = bootstrap_interval(scores, resamples=20000)
    half = 1.96 * math.sqrt(0.7 * 0.3 / 2000)
    assert (low, high) == pytest.approx((0.7 - half, 0.7 + half), abs=0.001)
    assert over == "questions"


def test_bootstrap_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(400):
        # 60 images with 5 strongly correlated questions each: the expected score is 0.5.
        scores = np.clip(rng.random((60, 1)) + rng.normal(0, 0.02, (60, 5)), 0, 1).ravel()
        images = np.repeat(np.arange(60), 5)
        low, high, _ = bootstrap_interval(scores, images, level=0.9, resamples=300, seed=trial)
        hits += low <= 0.5 <= high
    # 0.9 within three standard errors of 400 trials, and a margin because 60 clusters are few.
    assert 0.84 < hits / 400 < 0.95


def test_correlated_clusters_widen_the_interval():
    scores = np.repeat(np.arange(100) % 2, 10)
    images = [f"image {i // 10}" for i in range(1000)]
    alone = bootstrap_interval(scores)
    clustered = bootstrap_interval(scores, images)
    assert clustered.over == "questions, clustered by image"
    # All ten questions of an image score alike: sqrt(10) times as wide.
    ratio = (clustered.high - clustered.low) / (alone.high - alone.low)
    assert ratio == pytest.approx(math.sqrt(10), rel=0.1)


def test_clusters_weigh_by_their_questions():
    scores = [1.0] * 90 + [0.0, 1.0] * 5
    clusters = [i // 9 for i in range(90)] + list(range(10, 20))
    low, high, over = bootstrap_interval(scores, clusters, unit="video")
    assert low < np.mean(scores) < high
    # The mean of cluster means, 0.75, would be far outside.
    assert low > 0.85
    assert over.endswith("video")


def test_each_its_own_cluster_is_the_plain_bootstrap():
    scores = np.random.default_rng(0).random(50)
    clustered = bootstrap_interval(scores, list(range(50)))
    assert clustered[:2] == bootstrap_interval(scores)[:2]


def test_the_seed_decides():
    scores = np.random.default_rng(0).random(50)
    assert bootstrap_interval(scores, seed=3) == bootstrap_interval(scores, seed=3)
    assert bootstrap_interval(scores, seed=3) != bootstrap_interval(scores, seed=4)


def test_chunks_do_not_change_the_draws(monkeypatch):
    scores = np.random.default_rng(0).random(50)
    whole = bootstrap_interval(scores)
    monkeypatch.setattr("vlm.metrics.aggregate._DRAWN_AT_ONCE", 999)
    # Only the last bits differ, because matrix products sum in a different order.
    assert bootstrap_interval(scores)[:2] == pytest.approx(whole[:2], rel=1e-12)


def test_unanimous_scores_get_the_exact_bound():
    # Clopper-Pearson for 20 of 20 at 95 %: (0.025)^(1/20) = 0.8316.
    assert bootstrap_interval([1.0] * 20)[:2] == pytest.approx((0.83157, 1), abs=1e-5)
    assert bootstrap_interval([0.0] * 20)[:2] == pytest.approx((0, 0.16843), abs=1e-5)
    # Ten images with two questions each count as ten observations, not twenty.
    images = [i // 2 for i in range(20)]
    assert bootstrap_interval([1.0] * 20, images).low == pytest.approx(0.025**0.1)
    # Every image is half right, so resampling images varies as little as if all were right.
    low, high, _ = bootstrap_interval([0.0, 1.0] * 10, images)
    unlike = 1 - 0.025**0.1
    assert (low, high) == pytest.approx((0.5 * (1 - unlike), 0.5 * (1 + unlike)))


def test_the_bootstrap_of_a_large_split_stays_small():
    rng = np.random.default_rng(0)
    scores = rng.random(10_000)  # all distinct: the worst case, 160 MB if drawn at once
    tracemalloc.start()
    bootstrap_interval(scores, resamples=1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6


@pytest.mark.parametrize(
    ("freedom", "level", "t"),
    # Two-sided quantiles of Student's t, as in any printed table.
    [
        (1, 0.95, 12.7062),
        (2, 0.95, 4.30265),
        (3, 0.95, 3.18245),
        (4, 0.99, 4.60409),
        (7, 0.9, 1.89458),
        (10, 0.95, 2.22814),
        (29, 0.95, 2.04523),
        (120, 0.95, 1.97993),
    ],
)
def test_seed_interval_uses_students_t(freedom, level, t):
    values = np.random.default_rng(freedom).normal(66, 0.1, freedom + 1)
    low, high, over = seed_interval(values, level)
    half = t * values.std(ddof=1) / math.sqrt(freedom + 1)
    assert (high - low) / 2 == pytest.approx(half, rel=1e-5)
    assert (high + low) / 2 == pytest.approx(values.mean())
    assert over == f"{freedom + 1} seeds"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scores": []}, "scores has shape"),
        ({"scores": [[0.1]]}, "scores has shape"),
        ({"scores": [0.5, 63.0]}, r"scores contains 63.0.*divide percentages by 100"),
        ({"scores": [0.5, math.nan]}, "scores contains nan"),
        ({"scores": [0.5, 1], "clusters": [1]}, "clusters has length 1 and scores 2"),
        ({"scores": [0.5], "level": 95}, "level is 95"),
        ({"scores": [0.5], "resamples": 0}, "resamples is 0"),
    ],
)
def test_wrong_bootstrap_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(**arguments)


def test_wrong_seed_arguments_are_named():
    with pytest.raises(ValueError, match=r"values has shape \(1,\).*more seeds"):
        seed_interval([66.0])
    with pytest.raises(ValueError, match="must be finite"):
        seed_interval([66.0, math.inf])
    with pytest.raises(ValueError, match="level is 0"):
        seed_interval([66.0, 67.0], level=0)
