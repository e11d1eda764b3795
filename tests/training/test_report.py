"""The table of `fit` and `test`: by answer type, and by the data's own types of questions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pyarrow as pa
from rich.console import Console

from vlm.evaluation.evaluation import Evaluation
from vlm.evaluation.report import TYPES_SHOWN, print_report, report_rows, type_rows
from vlm.metrics import accuracy_by


def finished(types: list[str | None], column: str = "answer_type") -> Any:
    """What the report reads of an evaluation: every second answer is right."""
    answers = ["yes/no" if number % 2 else "other" for number in range(len(types))]
    table = pa.table(
        {
            "image": [str(number) for number in range(len(types))],
            "answer_type": answers,
            "question_type": types,
        }
    )
    evaluation = Evaluation(table, SimpleNamespace(), SimpleNamespace(types=column))  # type: ignore[arg-type]
    evaluation.scores = [float(number % 2) for number in range(len(types))]
    return evaluation


def shown(evaluation: Any) -> str:
    console = Console(width=110, record=True, quiet=False)
    by_type = type_rows(evaluation, None)
    print_report(report_rows(evaluation, None), {}, "Title", "About", console, by_type)
    return console.export_text()


def test_the_table_has_both_kinds_of_types() -> None:
    said = shown(finished(["what", "where", "where", "where"]))
    lines = [line.split()[1:6:2] for line in said.splitlines() if "│" in line]
    assert [line[0] for line in lines] == ["overall", "other", "yes/no", "where", "what"]
    rows, more = type_rows(finished(["what", "where", "where", "where"]), None)
    assert [(row["type"], row["questions"]) for row in rows] == [("where", 3), ("what", 1)]
    assert rows[0]["accuracy"] == accuracy_by([1.0, 0.0, 1.0], ["where"] * 3)["where"].mean
    assert not more


def test_many_types_are_bounded_and_the_rest_counted() -> None:
    types = [str(number) for number in range(TYPES_SHOWN + 5)]
    said = shown(finished(types * 2 + types[:3]))
    assert "5 more types, with 10 questions" in said
    assert sum("│" in line for line in said.splitlines()) == 3 + TYPES_SHOWN


def test_types_are_not_shown_twice_nor_where_there_are_none() -> None:
    assert type_rows(finished(["a", "b"], "question_type"), None) == ([], "")
    assert type_rows(finished([None, None]), None) == ([], "")


def test_questions_without_a_type_are_counted_too() -> None:
    rows, _ = type_rows(finished(["what", None, None, "what", "what"]), None)
    assert [(row["type"], row["questions"]) for row in rows] == [("what", 3), ("(none)", 2)]
