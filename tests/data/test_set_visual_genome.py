"""Visual Genome: reading a miniature in the official layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vlm.datasets import VisualGenome

COCO = {2: 9, 3: 25}
"""COCO's number of an image, as far as it has one."""


def pair(number: int, **changes: Any) -> dict[str, Any]:
    record = {
        "qa_id": number,
        "image_id": 1,
        "question": "What color is the sky?",
        "answer": "Blue.",
        "a_objects": [],
        "q_objects": [{"object_id": 3, "names": ["sky"]}],
    }
    return record | changes


def save(root: Path, *images: list[dict[str, Any]]) -> Path:
    numbers = range(1, len(images) + 1)
    content = [{"id": n, "qas": pairs} for n, pairs in zip(numbers, images, strict=True)]
    (root / "question_answers.json").write_text(json.dumps(content))
    about = [
        {
            "image_id": n,
            "url": f"https://cs.stanford.edu/people/rak248/VG_100K{'_2' * (n % 2)}/{n}.jpg",
            "coco_id": COCO.get(n),
        }
        for n in numbers
    ]
    (root / "image_data.json").write_text(json.dumps(about))
    return root


def test_questions_have_their_images_and_plain_answers(tmp_path: Path) -> None:
    save(tmp_path, [pair(5), pair(7, question="Why?", answer="A storm is near. ")], [pair(9)])
    data = VisualGenome(tmp_path)
    first, second, third = data.read("train").to_pylist()  # type: ignore[union-attr]
    assert (first["id"], first["image"]) == ("5", f"{tmp_path}/VG_100K_2/1.jpg")
    assert (first["answers"], first["question_type"]) == (["blue"], "what")
    assert (second["answers"], second["question_type"]) == (["a storm is near"], "why?")
    assert third["image"] == f"{tmp_path}/VG_100K/2.jpg"
    assert not data.has("test")
    assert data.has("validation"), "cut from its images"


def test_a_blank_question_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"image 1, pair 2.*question"):
        VisualGenome(save(tmp_path, [pair(5), pair(7, question=" ")])).read("train")


def test_an_answer_counts_without_case_and_full_stop() -> None:
    data = VisualGenome("anywhere")
    assert data.score("Blue.", ["blue"]) == 1
    assert data.score("light blue", ["blue"]) == 0


def test_only_images_of_given_questions_are_read_under_coco_s_names(tmp_path: Path) -> None:
    save(tmp_path, [pair(1)], [pair(2)], [pair(3)])
    asked = {"data_subtype": "train2014", "questions": [{"image_id": 9}, {"image_id": 77}]}
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    data = VisualGenome(tmp_path, images="coco", coco_questions=[tmp_path / "asked.json"])
    (row,) = data.read("train").to_pylist()  # type: ignore[union-attr]
    assert (row["id"], row["image"]) == ("2", "coco/train2014/COCO_train2014_000000000009.jpg")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": 3}, "question 'image 1, pair 2': got 3 for 'answer'; expected a text"),
        ({"question": ""}, "image 1, pair 2 .*got the question ''; expected some text"),
        ({"qa_id": 1}, r"image 1, pair 2 \(id '1'\): the id is already used at .*"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    save(tmp_path, [pair(1), pair(2, **change)])
    with pytest.raises(ValueError, match=rf"question_answers\.json, {message}"):
        VisualGenome(tmp_path).read("train")


def test_files_of_other_versions_and_missing_ones(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"question_answers\.json.*~ranjay/visualgenome"):
        VisualGenome(tmp_path).read("train")
    save(tmp_path, [pair(1)])
    (tmp_path / "image_data.json").write_text("[]")
    with pytest.raises(ValueError, match="got the image 1; expected one of image_data"):
        VisualGenome(tmp_path).read("train")
    (tmp_path / "asked.json").write_text("[]")
    with pytest.raises(ValueError, match=r"asked\.json.*data_subtype"):
        VisualGenome(tmp_path, coco_questions=[tmp_path / "asked.json"]).read("train")
