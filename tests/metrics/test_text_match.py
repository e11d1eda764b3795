"""Exact match and ANLS by hand, and the metric objects against the functions."""

from __future__ import annotations

import math
import pickle

import pytest

from vlm.metrics import ANLS, ExactMatch, anls, exact_match
from vlm.metrics.text_match import levenshtein

PREDICTIONS = ["coca cola", "Coca-Cola ", "pepsi", "", "stop sign"]
ANSWERS = [["coca cola", "cola"], ["coca-cola"], ["coca cola"], ["no", "none"], ["Stop  signs"]]


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [
        ("", "", 0),
        ("", "abc", 3),
        ("kitten", "sitting", 3),
        ("flaw", "lawn", 2),
        ("abc", "abc", 0),
        ("ab", "ba", 2),
    ],
)
def test_levenshtein(a: str, b: str, distance: int) -> None:
    assert levenshtein(a, b) == levenshtein(b, a) == distance


def test_anls_by_hand() -> None:
    scores = [anls(p, a) for p, a in zip(PREDICTIONS, ANSWERS, strict=True)]
    # pepsi: 8 of 9 letters are wrong. stop sign: one space and one letter of 11.
    assert scores == pytest.approx([1, 1, 0, 0, 1 - 2 / 11])


def test_half_of_the_letters_wrong_is_too_far() -> None:
    assert anls("ab", ["ax"]) == 0
    assert anls("abc", ["abx"]) == pytest.approx(2 / 3)
    assert anls("ab", ["ax"], threshold=0.6) == pytest.approx(0.5)


def test_the_nearest_answer_counts() -> None:
    assert anls("red cat", ["blue dog", "red bat"]) == pytest.approx(6 / 7)


def test_exact_match_by_hand() -> None:
    scores = [exact_match(p, a) for p, a in zip(PREDICTIONS, ANSWERS, strict=True)]
    assert scores == [1, 0, 0, 0, 0]  # case matters, surrounding space does not
    assert exact_match("no ", ["yes", "no"]) == 1


@pytest.mark.parametrize("score", [anls, exact_match])
def test_no_answers(score) -> None:
    for wrong in ([], "yes"):
        with pytest.raises(
            ValueError, match=r"answers: got .*; expected what the annotators wrote"
        ):
            score("yes", wrong)


def test_a_threshold_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"threshold: got 0; expected above 0"):
        anls("a", ["a"], 0)


@pytest.mark.parametrize(("metric", "score"), [(ANLS, anls), (ExactMatch, exact_match)])
def test_the_metric_is_the_mean_of_the_function(metric, score) -> None:
    wanted = sum(score(p, a) for p, a in zip(PREDICTIONS, ANSWERS, strict=True)) / 5
    made = pickle.loads(pickle.dumps(metric()))
    made.update([], [])
    assert math.isnan(made.compute()["overall"])
    made.update(PREDICTIONS[:2], ANSWERS[:2])
    made.update(PREDICTIONS[2:], ANSWERS[2:])
    assert made.compute()["overall"].item() == pytest.approx(wanted)
    with pytest.raises(ValueError, match=r"answers has length 2 and predictions 1"):
        made.update(["a"], [["a"], ["b"]])
    with pytest.raises(ValueError, match=r"answers: got \[\]"):
        made.update(["a", "b"], [["a"], []])
    assert made.compute()["overall"].item() == pytest.approx(wanted)


def test_the_threshold_reaches_the_metric() -> None:
    metric = ANLS(threshold=0.6)
    metric.update(["ab"], [["ax"]])
    assert metric.compute()["overall"] == 0.5


def test_a_threshold_out_of_range_is_refused_at_once() -> None:
    for threshold in (["color"], 50, 0):
        with pytest.raises(ValueError, match="threshold: got"):
            ANLS(threshold)
