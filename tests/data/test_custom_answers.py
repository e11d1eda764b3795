"""The forms in which a custom data file can give answers."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from vlm.datasets.readers.annotations import annotators_answers, cell_content

YES3 = ["yes", "yes", "yes", "no"]
TEN = [{"answer": a, "answer_confidence": c, "answer_id": i} for i, (a, c) in enumerate(
    [("down", "yes")] * 7 + [("at table", "maybe"), ("skateboard", "no"), ("table", "yes")], 1
)]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("yes", ["yes"]),
        ("  two words ", ["two words"]),
        ("a|b", ["a|b"]),  # two answers only in CSV
        (3, ["3"]),
        (2.5, ["2.5"]),
        (3.0, ["3"]),
        (Decimal("3.00"), ["3"]),
        (Decimal("2.50"), ["2.5"]),
        ("3.0", ["3"]),
        ("-3.00", ["-3"]),
        ("3.0.0", ["3.0.0"]),
        ("3.50", ["3.50"]),
        ("1.0 m", ["1.0 m"]),
        (1e20, ["100000000000000000000"]),
        (["yes", "no", "yes"], ["yes", "no", "yes"]),
        ([3, 4], ["3", "4"]),
        ({"yes": 3, "no": 1}, YES3),
        ({"yes": 3.0, "no": 1, "maybe": 0, "so": None}, YES3),
        ([("yes", 3), ("no", 1)], YES3),  # an Arrow map
        ([{"answer": "yes", "count": 3}, {"answer": "no", "count": 1}], YES3),
        ([{"answer": "yes", "count": 3}, {"answer": "no"}], YES3),
        ([{"answer": "yes", "count": 3}, {"answer": "no", "count": None}], YES3),
        ({"answer": ["yes", "no"], "count": [3, 1], "by": ["x", "y"]}, YES3),
        # In Parquet, every object has every field.
        ([{"answer": a, "count": None, "confidence": c} for a, c in ("ay", "bn", "c ")], [*"abc"]),
        ([{"answer": a, "answer_confidence": c} for a, c in (("a", "yes"), ("b", None))], [*"ab"]),
        ([{"answer": a, "confidence": 1} for a in "aab"], [*"aab"]),
        (TEN, ["down"] * 7 + ["at table", "skateboard", "table"]),
        ({"yes": 0.7, "no": 0.3}, ["yes"] * 7 + ["no"] * 3),
        ([{"answer": a, "confidence": 0.5} for a in "ab"], ["a"] * 5 + ["b"] * 5),
        ({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, ["a"] * 4 + ["b"] * 3 + ["c"] * 3),
        ({"a": 0.94, "b": 0.06}, ["a"] * 9 + ["b"]),
        ("🐈", ["🐈"]),
        ("כן", ["כן"]),
        (["红色", "红"], ["红色", "红"]),
        (None, None),
        ("", None),
        ("  ", None),
        ([], None),
        ({}, None),
        (float("nan"), None),
        ({"yes": 0}, None),
    ],
)  # fmt: skip
def test_one_text_per_annotator(value: Any, wanted: list[str] | None) -> None:
    assert annotators_answers(value) == wanted


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (True, "got True; expected a text"),
        (["yes", float("inf")], "got inf; expected a text"),
        (["yes", None], "with an empty answer"),
        (["yes", " "], "with an empty answer"),
        (["yes", ["no"]], r"got \['no'\]; expected a text"),
        ([{"answer": "yes"}, "no"], "got {'answer': 'yes'}; expected a text"),
        ([{"text": "yes"}], "got {'text': 'yes'}; expected objects with an answer"),
        ([{"answer": ""}], "an answer is empty"),
        ({"yes": -1}, "got -1 for 'yes'; expected a count, or a share"),
        ({"yes": "many"}, "got 'many' for 'yes'; expected a count, or a share"),
        ({"yes": True}, "got True for 'yes'"),
        ({"yes": float("nan")}, "got nan for 'yes'"),
        ({"yes": float("inf")}, "counts that sum to inf; expected at most 1,000"),
        ({"yes": 10**9}, r"counts that sum to 1e\+09; expected at most 1,000"),
        ({"yes": 1, "no": False}, "got False for 'no'"),
        (
            [{"answer": "yes", "count": "3"}, {"answer": "no", "count": "1"}],
            "got '3' for 'yes'; expected a count, or a share, as a number",
        ),
        (
            [{"answer": "yes", "count": 3}, {"answer": "no", "count": 0}],
            "got count 0 for 'no'; leave out an answer that nobody gave",
        ),
        (
            [{"answer": "a", "answer_confidence": 0.0}, {"answer": "b", "answer_confidence": 1.0}],
            "got answer_confidence 0.0 for 'a'; leave out .* a confidence that should not count",
        ),
        ([{"answer": "a", "confidence": ["yes"]}], r"got \['yes'\] for 'a'"),
        ([{"answer": "a", "confidence": True}], "got True for 'a'"),
        # Confidences of the annotators are neither counts nor shares.
        (
            [{"answer": "a", "confidence": 90}, {"answer": "b", "confidence": 60}],
            "got the confidence 90 for 'a'; .*not supported: leave it out.* as count",
        ),
        (
            [{"answer": "a", "answer_confidence": 5.0}, {"answer": "b", "answer_confidence": 2}],
            "got the confidence 5.0 for 'a'; .* as count",
        ),
        ([{"answer": "a", "confidence": "90 %"}], "got the confidence '90 %' for 'a'"),
        ([{"answer": "a", "answer_confidence": 0.9}] * 3, "sum to 2.7; .*leave it out"),
        (
            {"a": 0.5},
            "sum to 0.5; expected whole counts, or shares of the annotators that sum to 1",
        ),
        ({"a": 0.96, "b": 0.04}, "the share 0.04 for 'b'; .*less than one: leave it out"),
        ("\ud83d", r"not valid Unicode"),
    ],
)
def test_other_forms_are_refused(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        annotators_answers(value)


@pytest.mark.parametrize(
    ("cell", "wanted"),
    [
        ("yes", ["yes"]),
        ("yes|no| yes", ["yes", "no", "yes"]),
        ('["yes", "a|b"]', ["yes", "a|b"]),
        ('{"yes": 3, "no": 1}', YES3),
        ('[{"answer": "yes", "count": 3}, {"answer": "no", "count": 1}]', YES3),
        ("[sic", ["[sic"]),
        ("", None),
    ],
)
def test_cells_of_a_csv_file(cell: str, wanted: list[str] | None) -> None:
    assert annotators_answers(cell_content(cell)) == wanted
