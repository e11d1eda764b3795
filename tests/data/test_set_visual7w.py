"""Visual7W telling: reading a miniature in the official layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vlm.datasets import Visual7W


def pair(number: int, **changes: Any) -> dict[str, Any]:
    record = {
        "qa_id": number,
        "image_id": 3,
        "question": f"What is number {number}?",
        "answer": "A cat.",
        "multiple_choices": ["A dog.", "A bird.", "Two cats."],
        "type": "what",
    }
    return record | changes


def save(root: Path, **splits: list[dict[str, Any]]) -> None:
    images = [
        {"image_id": i, "split": split, "filename": f"v7w_{i}.jpg", "qa_pairs": pairs}
        for i, (split, pairs) in enumerate(splits.items())
    ]
    content = {"dataset": "visual7w-telling", "images": images}
    (root / "dataset_v7w_telling.json").write_text(json.dumps(content))


@pytest.mark.filterwarnings("ignore:.*got 1 question;")
def test_each_split_has_its_questions(tmp_path: Path) -> None:
    save(
        tmp_path,
        train=[pair(5), pair(7, type="who", answer="Zoe.")],
        val=[pair(9)],
        test=[pair(11)],
    )
    data = Visual7W(tmp_path)
    first, second = data.table("train").to_pylist()
    assert (first["id"], first["image"]) == ("5", str(tmp_path / "images/v7w_0.jpg"))
    assert (first["answers"], first["answer_type"]) == (["A cat."], "what")
    assert first["choices"] == ["A bird.", "A cat.", "A dog.", "Two cats."]
    assert second["choices"] == ["A bird.", "A dog.", "Two cats.", "Zoe."], "no fixed place"
    assert second["answer_type"] == "who"
    for split, image, question in (("validation", 1, "9"), ("test", 2, "11")):
        (row,) = data.table(split).to_pylist()
        assert (row["id"], row["image"]) == (question, str(tmp_path / f"images/v7w_{image}.jpg"))


def test_the_case_of_an_answer_does_not_count(tmp_path: Path) -> None:
    data = Visual7W(tmp_path)
    assert data.score("a CAT.", ["A cat."]) == 1
    assert data.score("A cat", ["A cat."]) == 0


def test_another_size_than_the_published_is_said(tmp_path: Path) -> None:
    save(tmp_path, val=[pair(1), pair(2)])
    with pytest.warns(UserWarning, match=r"got 2 questions; .*visual7w-toolkit gives 28,020"):
        Visual7W(tmp_path).read("validation")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"multiple_choices": ["A cat.", "A dog."]}, "question 2: got the answer 'A cat.' and"),
        ({"multiple_choices": ["A dog.", 3]}, "question 2: got the answer .* expected other texts"),
        ({"answer": 3}, "question 'image 1, pair 2': got 3 for 'answer'; expected a text"),
        ({"question": ""}, "image 1 .*got the question ''; expected some text"),
        ({"qa_id": 1}, r"image 1 \(id '1'\): the id is already used at .*"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    save(tmp_path, train=[pair(1), pair(2, **change)])
    with pytest.raises(ValueError, match=rf"dataset_v7w_telling\.json, {message}"):
        Visual7W(tmp_path).read("train")


def test_a_file_that_is_missing_or_another(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"dataset_v7w_telling\.json.*~yukez/visual7w"):
        Visual7W(tmp_path).table("train")
    (tmp_path / "dataset_v7w_telling.json").write_text('{"boxes": []}')
    with pytest.raises(ValueError, match="an object with a list of 'images'"):
        Visual7W(tmp_path).table("train")
