"""The table of `fit` and `test`: by answer type, and by the question types of the data."""

from __future__ import annotations

from typing import Any, ClassVar

import pyarrow as pa
import pytest
from rich.console import Console

from vlm.datasets.base import Dataset, Split
from vlm.evaluation.report import TYPES_SHOWN, Report
from vlm.evaluation.results import Prediction, Results
from vlm.metrics import accuracy_by


def report(types: list[str | None], column: str = "answer_type") -> Report:
    """A report on a split in which every second answer is right."""
    ids = [str(number) for number in range(len(types))]
    table = pa.table(
        {
            "id": ids,
            "image": ids,
            "answer_type": ["yes/no" if number % 2 else "other" for number in range(len(types))],
            "question_type": types,
            "answers": [["a"]] * len(types),
            "group": pa.nulls(len(types), pa.string()),
        }
    )

    class Typed(Dataset):
        types: ClassVar[Any] = column

        def read(self, split: Split) -> None:
            return None

    given = {key: Prediction("a" if number % 2 else "b") for number, key in enumerate(ids)}
    return Report(Results(table, given, Typed()), "test")


def shown(report: Report) -> str:
    console = Console(width=110, record=True, quiet=False)
    report.print(console)
    return console.export_text()


def test_the_table_has_both_kinds_of_types() -> None:
    said = shown(report(["what", "where", "where", "where"]))
    lines = [line.split()[1:6:2] for line in said.splitlines() if "│" in line]
    assert [line[0] for line in lines] == ["overall", "other", "yes/no", "where", "what"]
    rows, more = report(["what", "where", "where", "where"]).type_rows()
    assert [(row["type"], row["questions"]) for row in rows] == [("where", 3), ("what", 1)]
    assert rows[0]["accuracy"] == accuracy_by([1.0, 0.0, 1.0], ["where"] * 3)["where"].mean
    assert not more


def test_many_types_are_bounded_and_the_rest_counted() -> None:
    types = [str(number) for number in range(TYPES_SHOWN + 5)]
    said = shown(report(types * 2 + types[:3]))
    assert "5 more types, with 10 questions" in said
    assert sum("│" in line for line in said.splitlines()) == 3 + TYPES_SHOWN


def test_types_are_not_shown_twice_nor_where_there_are_none() -> None:
    assert report(["a", "b"], "question_type").type_rows() == ([], "")
    assert report([None, None]).type_rows() == ([], "")


def test_questions_without_a_type_are_counted_too() -> None:
    rows, _ = report(["what", None, None, "what", "what"]).type_rows()
    assert [(row["type"], row["questions"]) for row in rows] == [("what", 3), ("(none)", 2)]


def test_a_report_is_shown_by_its_split_and_accuracy() -> None:
    assert repr(report(["a"])) == "Report('test', 1 question, accuracy 0.0000)"
    assert repr(report(["a"] * 2)) == "Report('test', 2 questions, accuracy 0.5000)"


def test_a_type_is_printed_as_it_is() -> None:
    """A type that looks like rich markup is printed literally."""
    said = str(report(["[bold]what", ":smile:", ":smile:", "[bold]what"]))
    assert "[bold]what" in said
    assert ":smile:" in said


def test_the_text_is_written_in_a_notebook_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert "overall" in str(report(["what", "where"]))
