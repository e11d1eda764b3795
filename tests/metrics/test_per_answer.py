"""Precision and recall, worked out by hand."""

import math

import pytest

from vlm.metrics import per_answer


def test_by_hand():
    table = per_answer(
        predictions=["yes", "yes", "yes", "no", "blue"],
        references=["yes", "yes", "no", "no", "red"],
    )
    assert list(table) == ["no", "yes", "red", "blue"]
    assert table["yes"] == (pytest.approx(2 / 3), 1, pytest.approx(0.8), 2)
    assert table["no"] == (1, 0.5, pytest.approx(2 / 3), 2)


def test_what_is_undefined_is_nan_and_what_was_missed_is_zero():
    table = per_answer(["blue"], ["red"])
    assert math.isnan(table["red"].precision)
    assert table["red"][1:] == (0, 0, 1)
    assert math.isnan(table["blue"].recall)
    assert (table["blue"].precision, table["blue"].f1, table["blue"].support) == (0, 0, 0)


def test_no_questions():
    assert per_answer([], []) == {}


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="predictions has length 1 and references 2"):
        per_answer(["a"], ["a", "b"])
    with pytest.raises(TypeError, match="references is the string 'a'"):
        per_answer(["a"], "a")
