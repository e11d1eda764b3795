"""SLAKE: reading a miniature in the official layout, in both languages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vlm.datasets import SLAKE
from vlm.text import split_words


def save(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def slake(number: int, **changes: Any) -> dict[str, Any]:
    record = {
        "img_id": 3,
        "img_name": "xmlab3/source.jpg",
        "question": "What modality is used?",
        "answer": "MRI",
        "q_lang": "en",
        "location": "Abdomen",
        "modality": "MRI",
        "answer_type": "OPEN",
        "base_type": "vqa",
        "content_type": "Modality",
        "triple": ["vhead", "_", "_"],
        "qid": number,
    }
    return record | changes


CHINESE = slake(7, question="图中有肝脏吗?", answer="有", q_lang="zh", answer_type="CLOSED")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("train", "validate", "test"):
        save(tmp_path / f"{name}.json", [slake(5), CHINESE, slake(9, content_type="Organ")])
    return tmp_path


def test_slake_in_either_language(root: Path) -> None:
    for split in ("train", "validation", "test"):
        assert SLAKE(root).read(split)["id"].to_pylist() == ["5", "9"]
    (row,) = SLAKE(root, language="zh").read("train").to_pylist()
    assert (row["question"], row["answers"]) == ("图中有肝脏吗?", ["有"])
    assert (row["answer_type"], row["question_type"]) == ("closed", "Modality")
    assert row["image"] == str(root / "imgs/xmlab3/source.jpg")
    assert split_words(row["question"]), "there is something to read"
    both = SLAKE(root, language="both").read("train")
    assert both["id"].to_pylist() == ["5", "7", "9"]
    assert both["question_type"].to_pylist() == ["Modality", "Modality", "Organ"]


def test_slake_says_what_it_leaves_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("vlm.datasets.slake._log.warning", said.append)
    SLAKE(root).read("validation")
    assert said == [
        "SLAKE: 1 of 3 validate questions are in the other language than 'en' and left out."
    ]
    SLAKE(root, language="both").read("train")
    assert len(said) == 1


def test_a_wrong_slake_field_is_named(root: Path) -> None:
    save(root / "validate.json", [slake(5), slake(9, q_lang=None)])
    with pytest.raises(ValueError, match=r"validate\.json, question 2: got None for 'q_lang'"):
        SLAKE(root).read("validation")


def test_a_missing_file_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"validate\.json.*Slake1\.0\.zip"):
        SLAKE(tmp_path).read("validation")
