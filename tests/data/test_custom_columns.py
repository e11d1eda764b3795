"""Unused columns are listed and, where likely, suggested as the ones meant."""

from __future__ import annotations

import re
import shlex
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from custom_files import CONFIG, small, write_photos, write_rows
from rich.console import Console

from vlm.cli.main import main
from vlm.data import VQADataModule
from vlm.data.check.check import check_data
from vlm.data.check.report import print_check
from vlm.datasets import CustomDataset
from vlm.datasets.readers.columns import meant, missing_columns


def mapping(said: str) -> Any:
    """Parses the option that a warning suggests."""
    (option,) = re.findall(r"such as (.*)\.$", said)
    (given,) = shlex.split(option)
    return yaml.safe_load(given.removeprefix("--dataset.columns="))


@pytest.mark.parametrize(
    ("unused", "offered"),
    [
        (["question_id"], {"id": "question_id"}),
        (["questionId", "source"], {"id": "questionId"}),
        (["ID", "Type"], {"id": "ID", "type": "Type"}),
        (["question_type", "answerType"], {"type": "question_type", "answer_type": "answerType"}),
        (["options"], {"choices": "options"}),
        (["chioces"], {"choices": "chioces"}),
        (["patient_id", "Study ID"], {"group": "patient_id"}),
        (["split", "source", "notes", "confidence", "width", "image_id", "url", "index"], None),
    ],
)
def test_near_names_and_synonyms_are_offered(
    unused: list[str], offered: dict[str, str] | None
) -> None:
    columns = {name: name for name in ("image", "question", "answer", *"x")} | {
        name: name for name in ("id", "type", "answer_type", "choices", "group")
    }
    columns["answer"] = "label"
    there = ["image", "question", "label", *unused]
    said = meant(unused, there, columns, {"answer"})
    if offered is None:
        assert said is None
        return
    assert said is not None
    for ours, theirs in offered.items():
        assert f"{theirs!r} (as {ours!r}?)" in said
    assert mapping(said) == {"answer": "label"} | offered, "what was named before stays"
    assert meant(unused, [*there, *offered], columns, {"answer"}) is None, "there is one already"


@pytest.mark.parametrize("end", ["jsonl", "csv"])
def test_fit_warns_and_check_data_lists(
    end: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        row | {"question_id": f"q{i}", "source": "me"}
        for i, row in enumerate(write_photos(tmp_path, images=10))
    ]
    if end == "csv":
        my = tmp_path / "my.csv"
        lines = [",".join(["", *rows[0]]), *(",".join(["0", *row.values()]) for row in rows)]
        my.write_text("\n".join(lines))
    else:
        my = write_rows(tmp_path / "my.jsonl", rows)
    for _ in range(2):  # read from the cache the second time
        with pytest.warns(UserWarning, match=r"not read: 'question_id' \(as 'id'\?\)") as said:
            CustomDataset(str(my)).table("train")
        assert len(said) == 1
    found = check_data(VQADataModule(CustomDataset(str(my))), images=False)
    assert found.warnings.counts == {"unread column": 1}
    assert found.unused == {str(my): ["question_id", "source"]}
    print_check(found, Console(width=200))
    printed = capsys.readouterr().out
    assert printed.count(f"{my}: not read: 'question_id', 'source'.\n") == 1
    named = mapping(found.warnings.kept["unread column"][0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = CustomDataset(str(my), columns=named)
        assert data.table("test")["id"][0].as_py().startswith("q")
    assert check_data(VQADataModule(data), images=False).unused == {str(my): ["source"]}


def test_the_warning_is_one_line_of_fit(tmp_path: Path) -> None:
    rows = [row | {"qid": i} for i, row in enumerate(write_photos(tmp_path, images=10))]
    my = write_rows(tmp_path / "my.jsonl", rows)
    with pytest.warns(UserWarning, match=r"my\.jsonl: not read: 'qid' \(as 'id'\?\)") as said:
        main(["fit", "-c", CONFIG, *small(tmp_path, my, "--trainer.max_epochs=1")])
    assert len([one for one in said if "qid" in str(one.message)]) == 1


def test_columns_in_another_language_are_not_taken_for_each_other() -> None:
    needed = ["image", "question", "answer"]
    columns = {name: name for name in (*needed, "type")}
    said = missing_columns(needed, ["Bild", "Frage", "Antwort", "Typ"], columns, ())
    assert "Did you mean" not in said
    assert said.endswith("--dataset.columns='{image: NAME, question: NAME, answer: NAME}'.")
    said = missing_columns(needed, ["image_path", "Question", "Answer"], columns, ())
    assert said.endswith(
        "--dataset.columns='{image: image_path, question: Question, answer: Answer}'."
    )
