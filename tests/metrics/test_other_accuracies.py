"""Accuracies of other data sets' evaluators, worked out by hand from their rules."""

from __future__ import annotations

from typing import Any

import pytest

from vlm.metrics import direct_answer_accuracy, mean_per_type, vizwiz_accuracy, vqa_accuracy


@pytest.mark.parametrize(
    ("prediction", "answers", "wanted"),
    [
        ("rain", ["rain"] * 3 + ["sun"] * 7, 1),  # VQA accuracy: 0.9
        ("rain", ["rain"] * 2 + ["sun"] * 8, 2 / 3),
        ("rain", ["rain"] + ["sun"] * 9, 1 / 3),
        ("Rain", ["rain"] * 10, 0),
        ("rain", ["rain "] * 5 + ["rain"] + ["sun"] * 4, 1 / 3),
        ("", ["rain"] * 10, 0),
    ],
)
def test_direct_answers(prediction: str, answers: list[str], wanted: float) -> None:
    assert direct_answer_accuracy(prediction, answers) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("prediction", "answers", "wanted"),
    [
        ("Soup.", ["soup"] * 3 + ["can"] * 7, 0.9),
        ("the soup", ["soup"] * 10, 1),  # by the rules of 2021 that is 0: the ten agree
        ("two", ["2"] * 2 + ["3"] * 8, 0.6),
        ("two", ["two"] * 9 + ["2"], 0.3),  # annotators' answers stay as written
        ("soup", ["Soup"] * 10, 0),
    ],
)
def test_vizwiz_normalises_the_prediction_alone(
    prediction: str, answers: list[str], wanted: float
) -> None:
    assert vizwiz_accuracy(prediction, answers) == pytest.approx(wanted)


def test_vizwiz_differs_from_both_years() -> None:
    assert vqa_accuracy("the soup", ["soup"] * 10) == 0
    answers = ["two"] * 9 + ["2"]
    assert vqa_accuracy("two", answers) == 1
    # The 2016 rules remove the comma from an annotator's answer.
    written = ["1,000"] * 5 + ["no"] * 5
    assert vqa_accuracy("1,000", written, "2016") == 1
    assert vizwiz_accuracy("1,000", written) == 0


def test_mean_per_type_by_hand() -> None:
    questions = [
        # (score, type, right answer)
        (1, "color", "red"),
        (1, "color", "red"),
        (1, "color", "red"),
        (0, "color", "blue"),
        (1, "count", "2"),
        (0, "count", "2"),
    ]
    means = mean_per_type(*(list(column) for column in zip(*questions, strict=True)))
    # Types: 3/4 and 1/2. By answer: (1 + 0)/2 and 1/2.
    assert means.arithmetic_mean_per_type == pytest.approx(0.625)
    assert means.harmonic_mean_per_type == pytest.approx(2 / (4 / 3 + 2))
    assert means.normalized_arithmetic_mean_per_type == pytest.approx(0.5)
    assert means.normalized_harmonic_mean_per_type == pytest.approx(0.5)


def test_a_type_without_a_right_answer_makes_the_harmonic_mean_zero() -> None:
    means = mean_per_type([1.0, 0.0], ["a", "b"], ["x", "y"])
    assert means == (0.5, 0, 0.5, 0)


def test_means_of_nothing_and_of_unequal_lists_are_errors() -> None:
    with pytest.raises(ValueError, match="a mean needs at least one question"):
        mean_per_type([], [], [])
    with pytest.raises(ValueError, match="zip"):
        mean_per_type([1.0], ["a", "b"], ["x", "y"])


@pytest.mark.parametrize("metric", [direct_answer_accuracy, vizwiz_accuracy])
def test_one_text_is_no_list_of_answers(metric: Any) -> None:
    with pytest.raises(TypeError, match="answers is 'yes', but must be a sequence of strings"):
        metric("yes", "yes")
    with pytest.raises(ValueError, match="answers is empty"):
        metric("yes", [])
