"""CLEVR: reading a miniature in the official layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vlm.datasets import CLEVR

FUNCTIONS = {
    "count": "count",
    "exist": "exist",
    "equal_integer": "compare integer",
    "less_than": "compare integer",
    "greater_than": "compare integer",
    "query_color": "query attribute",
    "equal_size": "compare attribute",
}


def question(index: int, function: str, split: str) -> dict[str, Any]:
    scene = {"function": "scene", "inputs": [], "value_inputs": []}
    record = {
        "split": split,
        "image_index": index // 2,
        "image_filename": f"CLEVR_{split}_{index // 2:06d}.png",
        "question": f"Is it {index}?",
        "question_index": index,
    }
    if split != "test":
        last = {"function": function, "inputs": [0], "value_inputs": []}
        record |= {"answer": str(index), "program": [scene, last], "question_family_index": 3}
    return record


def save(root: Path, split: str, questions: object) -> None:
    (root / "questions").mkdir(exist_ok=True)
    path = root / f"questions/CLEVR_{split}_questions.json"
    path.write_text(json.dumps({"info": {"split": split}, "questions": questions}))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split in ("train", "val", "test"):
        save(tmp_path, split, [question(i, f, split) for i, f in enumerate(FUNCTIONS)])
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*got 7 questions")
def test_questions_are_read_with_the_kind_of_their_program(root: Path) -> None:
    data = CLEVR(root)
    for split, name in (("train", "train"), ("validation", "val")):
        table = data.table(split)
        assert table["id"].to_pylist() == [str(i) for i in range(7)]
        assert table["image"][5].as_py() == str(root / f"images/{name}/CLEVR_{name}_000002.png")
        assert table["answers"].to_pylist() == [[str(i)] for i in range(7)]
        assert table["question_type"].to_pylist() == list(FUNCTIONS)
        assert table["answer_type"].to_pylist() == list(FUNCTIONS.values())


def test_the_test_questions_have_no_answers(root: Path) -> None:
    for split in ("test", "predict"):
        table = CLEVR(root).table(split)
        assert table["answers"].to_pylist() == [None] * 7
        assert table["image"][0].as_py() == str(root / "images/test/CLEVR_test_000000.png")


def test_another_size_than_the_published_is_said(root: Path) -> None:
    wanted = r"CLEVR_val_questions\.json: got 7 questions; https.*clevr/ gives 149,991"
    with pytest.warns(UserWarning, match=wanted):
        CLEVR(root).read("validation")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": 3}, "question 2: got 3 for 'answer'; expected a text"),
        ({"program": []}, "question 2: got None; expected an object with function"),
        ({"image_filename": None}, "question 2: got None for 'image_filename'"),
        (
            {"question_index": 0},
            r"question 2 \(id '0'\): the id is already used at question 1",
        ),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], message: str, root: Path) -> None:
    save(root, "val", [question(0, "count", "val"), question(1, "exist", "val") | change])
    with pytest.raises(ValueError, match=rf"CLEVR_val_questions\.json, {message}"):
        CLEVR(root).read("validation")


def test_a_file_that_is_missing_or_another(root: Path) -> None:
    (root / "questions/CLEVR_train_questions.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"CLEVR_train_questions\.json.*CLEVR_v1\.0\.zip"):
        CLEVR(root).table("train")
    (root / "questions/CLEVR_train_questions.json").write_text('{"scenes": []}')
    with pytest.raises(ValueError, match="an object with a list of 'questions'"):
        CLEVR(root).table("train")
    (root / "questions/CLEVR_train_questions.json").write_text('{"questions": [\n{"split"')
    with pytest.raises(ValueError, match=r"line 2, byte \d+ .*not JSON"):
        CLEVR(root).table("train")
