"""Scenes that ask for pictures: right ones are found from the pixels, by code that draws none."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vlm.data.augmentation import Mirror
from vlm.datasets import Scenes
from vlm.datasets.generated.judge import seen, shows
from vlm.image.as_text import is_picture, picture_of, picture_text

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return Scenes(scenes=120, drawings=6)


def drawn(scenes: Scenes, split: Any) -> list[dict[str, Any]]:
    return [row for row in scenes.table(split).to_pylist() if row["answer_type"] == "draw"]


def pixels_of(row: dict[str, Any]) -> np.ndarray:
    return np.asarray(picture_of(row["answers"][0]))


@pytest.mark.parametrize("split", SPLITS)
def test_each_picture_shows_its_sentence(scenes: Scenes, split: Any) -> None:
    rows = drawn(scenes, split)
    assert len(rows) == 6 * {"train": 120, "validation": 14, "test": 30}[split]
    assert all(shows(pixels_of(row), row["question"]) for row in rows)
    assert 0.6 < np.mean([len(seen(pixels_of(row))) == 2 for row in rows]) < 0.95


def test_a_sentence_is_in_one_split_however_it_is_said(scenes: Scenes) -> None:
    def meant(sentence: str) -> tuple[str, ...]:
        first, relation, second = re.fullmatch(
            r"Draw an? ([\w ]+?)(?: (left of|right of|above|below) an? (.+))?\.", sentence
        ).groups()  # type: ignore[union-attr]
        if relation in ("right of", "below"):
            first, second = second, first
        axis = "x" if "of" in (relation or "") else "y"
        return first, axis if relation else "", second or ""

    said = [{meant(row["question"]) for row in drawn(scenes, split)} for split in SPLITS]
    assert not said[0] & said[1] | said[0] & said[2] | said[1] & said[2]


def test_drawings_leave_pictures_and_questions_as_they_are(scenes: Scenes) -> None:
    plain = Scenes(scenes=120).table("test").to_pylist()
    rows = [row for row in scenes.table("test").to_pylist() if row["answer_type"] != "draw"]
    kept = ("id", "question", "answers", "choices")
    assert [[row[k] for k in kept] for row in rows] == [[row[k] for k in kept] for row in plain]
    for row, other in zip(rows[::99], plain[::99], strict=True):
        assert np.array_equal(*(np.asarray(Image.open(x["image"])) for x in (row, other)))
    some = Scenes(scenes=120, drawings=6, abilities=["attribute"]).table("test")["answer_type"]
    assert set(some.to_pylist()) == {"attribute", "draw"}


RED, BLUE = (230, 25, 25), (40, 60, 255)


def picture(*squares: tuple[int, int, tuple[int, int, int]], side: int = 11) -> np.ndarray:
    made = np.zeros((64, 64, 3), np.uint8)
    for x, y, color in squares:
        made[y : y + side, x : x + side] = color
    return made


SENTENCE = "Draw a red square left of a blue square."


@pytest.mark.parametrize(
    ("made", "right"),
    [
        (picture((5, 5, RED), (40, 30, BLUE)), True),
        (picture((5, 5, RED), (40, 30, BLUE), side=10), True),
        (picture((40, 5, RED), (5, 30, BLUE)), False),
        (picture((5, 5, RED), (7, 30, BLUE)), False),
        (picture((5, 5, RED)), False),
        (picture((5, 5, RED), (40, 30, RED)), False),
        (picture((5, 5, RED), (40, 30, BLUE), (20, 50, BLUE)), False),
        (picture((5, 5, RED), (40, 30, BLUE), side=20), False),
        (picture((5, 5, RED), (16, 5, BLUE)), False),
        (picture(), False),
    ],
)
def test_a_picture_is_right_if_it_shows_that_and_nothing_else(
    made: np.ndarray, right: bool
) -> None:
    assert shows(made, SENTENCE) == right


def test_a_frame_is_a_thing_of_no_shape() -> None:
    made = picture((5, 5, RED), side=22)
    made[7:25, 7:25] = 0
    assert [(thing.color, thing.shape) for thing in seen(made)] == [("red", "?")]


def test_a_mirror_mirrors_what_is_drawn(scenes: Scenes) -> None:
    mirror = Mirror()
    for row in drawn(scenes, "test"):
        made = mirror.text(row["answers"][0])
        assert shows(np.asarray(picture_of(made)), mirror.text(row["question"]))
        assert mirror.text(made) == row["answers"][0]


def test_the_score_of_a_drawing_is_read_from_the_picture(scenes: Scenes) -> None:
    table = scenes.table("test")
    rows = table.to_pylist()
    answers = [row["answers"][0] for row in rows]
    assert set(scenes.scores(table, answers)) == {1.0}
    noisy = [
        picture_text(np.clip(np.asarray(picture_of(a)) + np.int16(9), 0, 255).astype(np.uint8))
        if is_picture(a)
        else a
        for a in answers
    ]
    assert set(scenes.scores(table, noisy)) == {1.0}
    others = ["a circle" if is_picture(answer) else answer for answer in answers]
    scores = scenes.scores(table, others)
    of_drawings = [s for s, row in zip(scores, rows, strict=True) if row["answer_type"] == "draw"]
    assert len(of_drawings) == 180
    assert not any(of_drawings)
    blank = picture_text(np.zeros((64, 64, 3), np.uint8))
    assert np.mean(scenes.scores(table, [blank] * len(rows))) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"drawings": -1}, "drawings: got -1"),
        ({"drawings": 2, "language": "de"}, "drawings: got 2 with language=de"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Scenes(**arguments)
