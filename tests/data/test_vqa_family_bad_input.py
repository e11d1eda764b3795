"""Errors in files of VQA's format are reported with counts, ids, line and byte."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vqa_miniature import (
    annotation,
    asked_and_answered,
    question,
    save,
    write_a_okvqa,
    write_mscoco,
    write_text_vqa,
    write_vizwiz,
)

from vlm.datasets import AOKVQA, TextVQA, VizWiz, VQAv2
from vlm.datasets.errors import DataError, Problems, collecting
from vlm.datasets.readers.vqa_format import read_vqa

QUESTIONS = "v2_OpenEnded_mscoco_train2014_questions.json"
ANNOTATIONS = "v2_mscoco_train2014_annotations.json"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_mscoco(tmp_path, ("train2014", "val2014"))


def change(path: Path, name: str, edit: Callable[[list[Any]], Any]) -> None:
    content = json.loads(path.read_text())
    edit(content[name])
    save(path, content)


def fails(root: Path) -> str:
    with pytest.raises(DataError) as failed:
        VQAv2(root).read("train")
    return str(failed.value)


def test_questions_without_annotations_are_counted(root: Path) -> None:
    change(root / ANNOTATIONS, "annotations", lambda rows: rows.__delitem__(slice(4)))
    said = fails(root)
    assert "4 questions (first ids 107000, 107001, 108000)" in said
    assert f"of {root / QUESTIONS} without an annotation" in said
    assert "without a question" not in said


def test_annotations_without_questions_are_counted(root: Path) -> None:
    change(root / QUESTIONS, "questions", lambda rows: rows.pop(3))
    said = fails(root)
    assert f"1 annotation (first ids 101001) of {root / ANNOTATIONS} without a question" in said
    assert "without an annotation" not in said


def test_files_of_two_splits_name_both_sides(root: Path) -> None:
    val = root / "v2_mscoco_val2014_annotations.json"
    (root / ANNOTATIONS).write_text(val.read_text())
    said = fails(root)
    assert "18 questions (first ids 100000, 100001, 101000)" in said
    assert "10 annotations (first ids 204001, 204000, 203001)" in said
    assert "Take both files of the same split" in said


def test_a_check_goes_on_without_the_questions_that_have_no_annotation(root: Path) -> None:
    change(root / ANNOTATIONS, "annotations", lambda rows: rows.pop(0))
    problems = Problems(5)
    with collecting(problems), pytest.warns(UserWarning, match="got 17 questions"):
        table = VQAv2(root).read("train")
    assert len(table) == 17
    assert dict(problems.counts) == {"questions and annotations": 1}


@pytest.mark.parametrize("name", [QUESTIONS, ANNOTATIONS])
def test_a_truncated_file_is_named_with_line_and_byte(name: str, root: Path) -> None:
    path = root / name
    content = json.dumps(json.loads(path.read_text()), indent=1)
    cut = content[: len(content) // 2]
    path.write_text(cut)
    line = cut.count("\n") + 1
    said = fails(root)
    assert said.startswith(f"{path}, line {line}, byte ")
    assert f"ends at byte {len(cut)}" in said


def test_a_truncated_archive_is_named(root: Path) -> None:
    path = root / ANNOTATIONS
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(gzip.compress(path.read_bytes())[:-20])
    path.unlink()
    said = fails(root)
    assert said.startswith(f"{packed}, line 1, byte ")
    assert "cut short" in said


def drop(name: str) -> Callable[[list[Any]], None]:
    return lambda rows: rows[2].pop(name)


def put(name: str, value: Any) -> Callable[[list[Any]], None]:
    return lambda rows: rows[2].__setitem__(name, value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            drop("question_id"),
            "question 3: got nothing for 'question_id'; expected a text or a whole",
        ),
        (lambda rows: rows.insert(2, "red?"), "question 3: got 'red?'; expected an object with"),
        (drop("image_id"), "question 101000: got nothing for 'image_id'; expected a whole number"),
        (put("image_id", "5"), "question 101000: got '5' for 'image_id'; expected a whole number"),
        (put("question", None), "question 3: got None for 'question'; expected a text"),
        (put("question", "  "), "got the question '  '; expected some text"),
        (put("question_id", 100000), "without a question"),
    ],
)
def test_a_bad_question_is_named(edit: Callable, message: str, root: Path) -> None:
    change(root / QUESTIONS, "questions", edit)
    assert message in fails(root)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (drop("answers"), "question 3: got nothing for 'answers'; expected a list"),
        (put("answers", []), "the list of answers is empty"),
        (put("answers", [{"text": "red"}]), "question 107001: expected a list of objects with"),
        (put("answers", [{"answer": 7}]), "question 107001: expected a list of objects with"),
        (put("question_id", 108000), "annotation 3: question 108000 has one already"),
    ],
)
def test_a_bad_annotation_is_named(edit: Callable, message: str, root: Path) -> None:
    change(root / ANNOTATIONS, "annotations", edit)
    assert message in fails(root)


def test_a_question_id_twice_is_named(tmp_path: Path) -> None:
    asked = [question(5, 0), question(6, 0), question(5, 0)]
    path = save(tmp_path / "questions.json", asked)
    with pytest.raises(
        DataError, match=r"question 3 .*5000.*: the id is already used at question 1"
    ):
        read_vqa(path, None, lambda _: "a.jpg")


@pytest.mark.parametrize("content", [3, {"question": []}, {"questions": {}}, None])
def test_another_file_is_refused(content: Any, root: Path) -> None:
    save(root / QUESTIONS, content)
    assert "expected a JSON list, or an object with a list of 'questions'" in fails(root)


def test_any_writing_is_kept(tmp_path: Path) -> None:
    texts = ["这是什么颜色", "ما هذا؟ 🐈", "quel âge ?"]
    asked = [question(5, number, text) for number, text in enumerate(texts)]
    known = [annotation(row, ["红色", "🐈", "né"]) for row in asked]
    table = read_vqa(
        save(tmp_path / "q.json", {"questions": asked}),
        save(tmp_path / "a.json", {"annotations": known}),
        lambda _: "a.jpg",
    )
    assert table["question"].to_pylist() == texts
    assert table["answers"][2].as_py() == ["红色", "🐈", "né"]


def test_records_of_the_other_sets_are_checked(tmp_path: Path) -> None:
    cases = [
        (VizWiz(write_vizwiz(tmp_path / "v")), "Annotations/val.json", "answerable"),
        (TextVQA(write_text_vqa(tmp_path / "t")), "TextVQA_0.5.1_val.json", "image_id"),
        (AOKVQA(write_a_okvqa(tmp_path / "a")), "aokvqa_v1p0_val.json", "choices"),
    ]
    for data, name, key in cases:
        path = data.root / name
        content = json.loads(path.read_text())
        del (content["data"] if isinstance(content, dict) else content)[1][key]
        save(path, content)
        with pytest.raises(DataError, match=rf"{name}, question 2: got nothing for '{key}'"):
            data.read("validation")


def test_a_right_choice_out_of_range_is_named(tmp_path: Path) -> None:
    data = AOKVQA(write_a_okvqa(tmp_path), task="multiple_choice")
    path = tmp_path / "aokvqa_v1p0_train.json"
    content = json.loads(path.read_text())
    content[1]["correct_choice_idx"] = 4
    save(path, content)
    with pytest.raises(DataError, match=r"trainKey1.*: got correct_choice_idx 4 for 4 choices"):
        data.read("train")


def test_the_miniature_is_what_the_tests_take_it_for() -> None:
    questions, annotations = asked_and_answered("train2014")
    assert len(questions) == len(annotations) == 18
    assert questions[2]["question_id"] == 101000
    assert annotations[::-1][2]["question_id"] == 107001
