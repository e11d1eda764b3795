"""`vlm check-data` reports each problem with its location, the statistics and the exit code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from checked_files import check, cut, only, rows_with_ids
from custom_files import write_photos, write_rows

from vlm.core.validation import counted
from vlm.data import VQADataModule
from vlm.data.check.check import check_data
from vlm.data.check.report import write_check
from vlm.datasets import CustomDataset, EasyVQA


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, Any]]:
    return rows_with_ids(tmp_path)


def test_good_data_have_no_problem(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    for files in (cut(rows), {"train": rows}):
        found = check(tmp_path, **files)
        assert not found.errors.counts
        assert not found.warnings.counts


def test_figures_of_the_splits(tmp_path: Path) -> None:
    write_photos(tmp_path, images=4)
    train = [("0-0.png", "why?", "a"), ("0-0.png", "why?", "a"), ("0-1.png", "how is it?", "b")]
    test = [("0-2.png", "why?", "a"), ("0-3.png", "why?", "b"), ("0-3.png", "how is it?", "b"),
            ("0-3.png", "so?", "c")]  # fmt: skip
    named = ("image", "question", "answer")
    train, test = ([dict(zip(named, row, strict=True)) for row in part] for part in (train, test))
    found = check(tmp_path, train=train, validation=test[:1], test=test)
    found.splits.pop("validation")
    summary = found.splits["test"]
    assert (summary.questions, summary.images, summary.different) == (4, 2, 3)
    assert summary.answered == 4
    assert summary.answers == {"a": 1, "b": 2, "c": 1}
    assert summary.words == {1: 3, 3: 1}
    assert summary.floors == {"majority": 0.25, "question_only": 0.5, "ceiling": 0.75}
    assert summary.unanswerable == 1
    assert found.splits["train"].floors == {"ceiling": 1}
    assert found.vocabulary is not None
    assert found.vocabulary.answers == ["a", "b"]
    write_check(found, tmp_path / "out")
    written = json.loads((tmp_path / "out/check.json").read_text())
    assert written["splits"]["test"]["question_only"] == 0.5
    assert written["splits"]["test"]["questions_by_words"] == {"1": 3, "3": 1}
    assert written["splits"]["test"]["most_frequent_answers"] == {"b": 2, "a": 1, "c": 1}
    assert written["vocabulary"] == {"size": 2, "hash": found.vocabulary.hash}


@pytest.mark.parametrize(
    ("change", "kind", "column", "what"),
    [
        ({"question": " "}, "empty question", "question", "got the question ' '"),
        ({"answer": ""}, "no answer", "answer", "there is no answer"),
        ({"answer": []}, "no answer", "answer", "there is no answer"),
        ({"answer": [1, None]}, "wrong answer", "answer", "with an empty answer"),
        ({"image": None}, "no image", "image", "image is missing or empty"),
        ({"image": "http://a/b"}, "wrong image", "image", "got the address 'http://a/b'"),
        (
            {"id": "q3"},
            "duplicate id",
            "id",
            "the id is already used at .*train.jsonl, line 4",
        ),
        ({"image": "nosuch.png"}, "missing image", "image", "nosuch.png: there is no such file"),
    ],
)
def test_a_problem_has_file_line_and_column(
    change: dict[str, Any],
    kind: str,
    column: str,
    what: str,
    rows: list[dict[str, Any]],
    tmp_path: Path,
) -> None:
    rows[6] |= change
    said = only(check(tmp_path, **cut(rows)), kind)
    assert said.startswith(f"{tmp_path}/train.jsonl, line 7, column {column!r} (id ")
    assert re.search(what, said)


@pytest.mark.parametrize("name", ["my.csv", "my.jsonl"])
def test_a_missing_column_is_one_error(name: str, tmp_path: Path) -> None:
    keys = ("file", "question", "label")
    if name == "my.csv":
        content = ",".join(keys) + "\n" + "a,why?,b\n" * 5
    else:
        content = (json.dumps(dict.fromkeys(keys, "why?")) + "\n") * 5
    (tmp_path / name).write_text(content)
    found = check_data(VQADataModule(CustomDataset(str(tmp_path / name))))
    said = only(found, "missing column")
    assert "there is no column 'image', 'answer'" in said
    assert "{image: file, answer: label}" in said


def test_the_first_lines_alone_may_lack_a_column(
    rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    for row in rows[:3]:
        row["answr"] = row.pop("answer")
    found = check(tmp_path, **cut(rows))
    assert found.errors.counts == {"missing column": 2}
    first, last = found.errors.kept["missing column"]
    assert "train.jsonl, line 1: there is no column 'answer'" in first
    assert "train.jsonl, line 3: up to here no row has a column 'answer'." in last
    assert found.splits["train"].questions == 9


@pytest.mark.parametrize(
    ("column", "misspelt", "kind"),
    [
        ("answer", "answr", "no answer"),
        ("image", "img", "no image"),
        ("question", "qestion", "empty question"),
    ],
)
def test_a_misspelt_key_is_named(
    column: str, misspelt: str, kind: str, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    rows[6][misspelt] = rows[6].pop(column)
    said = only(check(tmp_path, **cut(rows)), kind)
    assert f"line 7, column {column!r}" in said
    assert said.endswith(f"Did you mean {misspelt!r}?")


def test_an_answer_outside_the_vocabulary(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    rows[17]["answer"] = "mauve"
    found = check(tmp_path, **cut(rows))
    said = only(found, "answer outside the vocabulary", warning=True)
    assert said.startswith(f"{tmp_path}/test.jsonl, line 2, column 'answer' (id 'q17'): ")
    assert "the model cannot give ['mauve']" in said
    assert found.splits["test"].floors["ceiling"] == 0.75
    rows[17]["answer"] = ["mauve", "red"]  # the model can give one of them
    assert not check(tmp_path, **cut(rows)).warnings.counts


@pytest.mark.parametrize("known", [False, True])
def test_each_split_s_column_of_answers_is_named(
    known: bool, rows: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLM_CACHE", str(tmp_path / "cache"))
    rows[13]["answer"] = rows[17]["answer"] = "mauve"
    rows[5]["answers"] = [rows[5].pop("answer")]
    parts = cut(rows)
    parts["test"] = [row | {"answers": [row.pop("answer")]} for row in parts["test"]]
    files = {name: str(write_rows(tmp_path / f"{name}.jsonl", r)) for name, r in parts.items()}
    train = files.pop("train")

    for _ in range(2):
        data = CustomDataset(train, images=tmp_path / "photos", **files)
        for split in ("train", "validation", "test") if known else ():
            data.table(split)  # as after training; read from the cache the second time
        said = check_data(VQADataModule(data), images=False).warnings.kept[
            "answer outside the vocabulary"
        ]
        assert [re.search(r"(\w+).jsonl, .*column ('.*?') ", line).groups() for line in said] == [
            ("validation", "'answer'"),
            ("test", "'answers'"),
        ]
        assert data.table("train").schema.metadata[b"answers"] == b"answer or answers"


def test_a_cut_file_s_column_of_answers_is_named(tmp_path: Path) -> None:
    rows = [
        {"image": f"{i}.png", "question": "so?", "label": f"{i}", "id": f"q{i}"} for i in range(9)
    ]
    data = CustomDataset(str(write_rows(tmp_path / "my.jsonl", rows)), columns={"answer": "label"})
    said = check_data(VQADataModule(data), images=False).warnings.kept[
        "answer outside the vocabulary"
    ]
    assert len(said) == 2, "one of validation, one of the test"
    assert all("column 'label' (id" in line for line in said)


def test_a_question_without_a_word(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    rows[3]["question"] = "🐈?!"
    said = only(check(tmp_path, **cut(rows)), "question without a word", warning=True)
    assert "train.jsonl, line 4, column 'question'" in said


def test_a_test_without_answers_is_no_error_and_one_with_some_is(
    rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    for row in rows[16:]:
        del row["answer"]
    found = check(tmp_path, **cut(rows))
    assert not found.errors.counts
    assert found.splits["test"].answered == 0
    assert found.splits["test"].floors == {}
    rows[17]["answer"] = "red"
    found = check(tmp_path, **cut(rows))
    assert found.errors.counts == {"no answer": 3}
    assert "test.jsonl, line 1, column 'answer'" in found.errors.kept["no answer"][0]


def test_all_problems_are_found_and_the_first_of_each_kind_listed(
    rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    for row in rows[:5]:
        row["question"] = ""
    rows[0] |= {"answer": None, "image": None}  # three problems in one line
    for row in rows[6:10]:
        row["image"] = f"nosuch {row['id']}.png"
    files = cut(rows)
    files["test"] = [row | {"image": f"../photos/{row['image']}"} for row in rows[10:20:2]]
    found = check(tmp_path, limit=2, **files)
    assert found.errors.counts == {
        "empty question": 5,
        "no answer": 1,
        "no image": 1,
        "missing image": 4,
        "image in two splits": 3,  # 10 is also in train; 12 and 14 in validation
        "question in two splits": 1,
    }
    kept = found.errors.kept
    assert {kind: len(messages) for kind, messages in kept.items()} == {
        "empty question": 2,
        "no answer": 1,
        "no image": 1,
        "missing image": 2,
        "image in two splits": 2,
        "question in two splits": 1,
    }
    assert [re.findall(r"line (\d+)", m) for m in kept["empty question"]] == [["1"], ["2"]]
    assert found.warnings.counts["question in two splits"] == 2, "of validation and test"
    assert found.splits["train"].questions == 7, "what has a mistake is left out, and was counted"


def test_unreadable_lines_and_files(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    found = check(tmp_path, **cut(rows))
    lines = (tmp_path / "train.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "train.jsonl").write_text(
        "".join([*lines[:3], "{no\n", *lines[4:11], lines[11][:9]])
    )
    paths = {name: str(tmp_path / f"{name}.jsonl") for name in ("validation", "test")}
    data = CustomDataset(str(tmp_path / "train.jsonl"), images=tmp_path / "photos", **paths)
    found = check_data(VQADataModule(data))
    assert found.errors.counts == {"unreadable line": 2}
    first, second = found.errors.kept["unreadable line"]
    assert f"train.jsonl, line 4, byte {len(''.join(lines[:3])) + 1} " in first
    assert "train.jsonl, line 12, byte" in second
    assert found.splits["train"].questions == 10
    (tmp_path / "test.jsonl").unlink()
    found = check_data(
        VQADataModule(
            CustomDataset(str(tmp_path / "train.jsonl"), images=tmp_path / "photos", **paths)
        )
    )
    assert found.errors.counts == {"unreadable line": 2, "unreadable data": 1}
    assert "test.jsonl: there is no such file" in found.errors.kept["unreadable data"][0]
    assert set(found.splits) == {"train", "validation"}


ROW = '{"image": "%s", "question": "?", "answer": "b"}\n'


@pytest.mark.parametrize("content", ["", "{\n", ROW % "a", ROW % "a" + ROW % "b"])
def test_files_with_nothing_to_learn_from(content: str, tmp_path: Path) -> None:
    (tmp_path / "my.jsonl").write_text(content)
    found = check_data(VQADataModule(CustomDataset(str(tmp_path / "my.jsonl"))))
    said = only(found, "unreadable line" if content == "{\n" else "unreadable data")
    if content != "{\n":  # otherwise no rows are left
        images = counted(len(content.splitlines()), "image")
        assert f"my.jsonl: got questions about {images} (or groups of images); " in said
        assert "at least 3" in said
    write_check(found, tmp_path / "out")


def test_other_sets_are_checked_too(data: Path, tmp_path: Path) -> None:
    """Problems in easy-VQA's files are located by question number and id instead of by line."""
    import shutil

    root = Path(shutil.copytree(data, tmp_path / "data"))
    questions = json.loads((root / "train/questions.json").read_text())
    questions[7][0] = ""
    questions[8][1] = "odd"
    (root / "train/questions.json").write_text(json.dumps(questions))
    (root / "test/images/3.png").unlink()
    found = check_data(VQADataModule(EasyVQA(root=root, validation_share=0.25)))
    assert found.errors.counts == {"empty question": 1, "missing image": 1}
    assert "questions.json, question 8 (id 'train-7')" in found.errors.kept["empty question"][0]
    [said] = found.errors.kept["missing image"]
    assert said.startswith(f"{root}/test/questions.json, column 'image' (id 'test-9'): ")
    assert [len(found.splits), found.splits["test"].questions] == [3, 36]
