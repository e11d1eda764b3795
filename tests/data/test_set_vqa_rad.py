"""VQA-RAD: reading a miniature in the official layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vlm.datasets import VQARAD

RAD_FILE = "VQA_RAD Dataset Public.json"


def rad(number: int, phrase: str, **changes: Any) -> dict[str, Any]:
    record = {
        "qid": number,
        "phrase_type": phrase,
        "qid_linked_id": f"link {number}",
        "image_case_url": f"https://medpix.example/case?id={number % 2}",
        "image_name": f"synpic{number}.jpg",
        "image_organ": "HEAD",
        "evaluation": "not evaluated",
        "question": f"Is there a mass {number}?",
        "question_rephrase": "NULL",
        "question_relation": "NULL",
        "question_frame": "NULL",
        "question_type": "PRES",
        "answer": "Yes",
        "answer_type": "CLOSED",
    }
    return record | changes


RAD = [
    rad(1, "freeform"),
    rad(2, "test_freeform", answer=3, answer_type="OPEN ", question_type="COUNT"),
    rad(3, "para", answer=" no"),
    rad(4, "test_para"),
    rad(5, "freeform", answer="Left\tlung ", answer_type="OPEN"),
]


def save(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def test_rad_knows_its_test_questions_by_their_phrase(tmp_path: Path) -> None:
    save(tmp_path / RAD_FILE, RAD)
    data = VQARAD(tmp_path)
    train, test = data.read("train").to_pylist(), data.read("test").to_pylist()
    assert [row["id"] for row in train] == ["1", "3", "5"]
    assert [row["answers"] for row in train] == [["yes"], ["no"], ["left\tlung"]]
    assert [row["answer_type"] for row in train] == ["closed", "closed", "open"]
    assert train[0]["image"] == str(tmp_path / "VQA_RAD Image Folder/synpic1.jpg")
    assert train[0]["group"] == "https://medpix.example/case?id=1"
    assert [row["answers"] for row in test] == [["3"], ["yes"]]
    assert [row["question_type"] for row in test] == ["COUNT", "PRES"]
    assert test[0]["answer_type"] == "open"


def test_rad_validates_on_other_cases(tmp_path: Path) -> None:
    save(tmp_path / RAD_FILE, [rad(n, "freeform") for n in range(6)])
    data = VQARAD(tmp_path, validation_share=0.4)
    groups = [set(data.table(split)["group"].to_pylist()) for split in ("train", "validation")]
    assert [len(group) for group in groups] == [1, 1]
    assert not groups[0] & groups[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": None}, "question 2: got None for 'answer'; expected a text or a whole number"),
        ({"phrase_type": 1}, "question 2: got 1 for 'phrase_type'; expected a text"),
        ({"question": " "}, r"question 2 \(id '3'\): got the question ''"),
        ({"answer": "", "answer_type": None}, "question 2: got None for 'answer_type'"),
        ({"qid": "1"}, r"question 2 \(id '1'\): the id is already used at .*question 1"),
    ],
)
def test_a_wrong_rad_field_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    save(tmp_path / RAD_FILE, [RAD[0], RAD[2] | change])
    with pytest.raises(ValueError, match=rf"Public\.json, {message}"):
        VQARAD(tmp_path).read("train")


def test_a_missing_file_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"Public\.json.*https://osf\.io/89kps"):
        VQARAD(tmp_path).read("test")
