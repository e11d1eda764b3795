"""The real easy-VQA data set and its published floors."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from vlm.datasets import EasyVQA
from vlm.datasets.baselines import compute_floors
from vlm.datasets.errors import DataError
from vlm.heads import count_answers
from vlm.text import count_words


def test_numbers_of_the_package() -> None:
    data = EasyVQA()
    train, test = data.read("train"), data.read("test")
    assert (len(train), len(test)) == (38_575, 9_673)
    for table, images in ((train, 4_000), (test, 1_000)):
        paths = set(table["image"].to_pylist())
        assert len(paths) == images
        assert all(Path(path).is_file() for path in paths)
        assert len(set(table["question"].to_pylist())) == 107
        assert len({tuple(answers) for answers in table["answers"].to_pylist()}) == 13
        types = Counter(table["answer_type"].to_pylist())
        assert set(types) == {"yes/no", "shape", "color"}
    assert not set(train["image"].to_pylist()) & set(test["image"].to_pylist())

    answers = count_answers(train["answers"].to_pylist())
    assert len(answers) == 13
    floors = compute_floors(data, train, test, answers)
    mean = {
        name: 100 * sum(getattr(floors, name)) / len(test)
        for name in ("majority", "question_only", "ceiling")
    }
    assert mean["majority"] == pytest.approx(37.33, abs=0.005)
    assert mean["question_only"] == pytest.approx(67.00, abs=0.005)
    assert mean["ceiling"] == 100
    assert floors.unanswerable == 0
    assert {len(row) for row in floors[:3]} == {len(test)}

    # Without "yes" in the vocabulary, the ceiling is the share of the other answers.
    less = compute_floors(data, train, test, [answer for answer in answers if answer != "yes"])
    yes = sum(given == ["yes"] for given in test["answers"].to_pylist())
    assert less.unanswerable == yes
    assert sum(less.ceiling) == len(test) - yes


def test_the_types_are_those_of_the_answers(data: Path) -> None:
    for row in EasyVQA(data).read("train").to_pylist():
        wanted = "yes/no" if row["answers"][0] in ("yes", "no") else "color"
        assert row["answer_type"] == wanted


def test_vocabularies_come_from_the_training_part_alone(data: Path, tmp_path: Path) -> None:
    """Words and answers that occur only with held-out images are not in the vocabularies."""
    module = EasyVQA(root=data, validation_share=0.25)
    held_out = set(module.table("validation")["image"].to_pylist())
    train = set(module.table("train")["image"].to_pylist())
    assert (len(held_out), len(train)) == (3, 9)
    assert not held_out & train
    number = int(Path(min(held_out)).stem)
    rows = json.loads((data / "train/questions.json").read_text())
    changed = [["bizarre?", "odd", n] if n == number else [q, a, n] for q, a, n in rows]
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "questions.json").write_text(json.dumps(changed))
    other = EasyVQA(root=tmp_path, validation_share=0.25)
    assert "odd" in {given[0] for given in other.table("validation")["answers"].to_pylist()}
    assert "odd" not in other.answers
    assert "bizarre" not in other.words
    assert other.words == count_words(other.table("train")["question"].to_pylist())
    assert len(other.table("train")) + len(other.table("validation")) == 36


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_missing_folder_is_named(split: str, tmp_path: Path) -> None:
    wanted = rf"nosuch/{split}/questions\.json: there is no such file\. Expected easy-VQA's layout"
    with pytest.raises(FileNotFoundError, match=wanted):
        EasyVQA(tmp_path / "nosuch").read(split)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[1,", ", line 1, byte 3"),
        ("", ", line 1, byte 0"),
        ('[["a", "b"]]', r", question 1: got \['a', 'b'\]; expected \[question, answer"),
        ("[3]", r", question 1: got 3; expected \[question, answer"),
        ('{"a": 1}', ": expected a JSON list"),
        ("null", ": expected a JSON list"),
    ],
)
def test_a_broken_file_is_named(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train/questions.json").write_text(content)
    with pytest.raises(DataError, match=rf"train/questions\.json{said}"):
        EasyVQA(tmp_path).read("train")


def test_an_empty_question_is_named(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test/questions.json").write_text('[["why?", "no", 3], ["", "no", 5]]')
    with pytest.raises(ValueError, match=r"test/questions\.json, question 2 \(id 'test-1'\): got"):
        EasyVQA(tmp_path).read("test")
