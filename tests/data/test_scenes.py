"""Scenes: right answers, found from the pixels alone, and floors at chance."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import groupby
from math import sqrt
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from vlm.datasets import Scenes
from vlm.datasets.generated.questions import SHAPES
from vlm.datasets.generated.scenes import COLORS, HELD_OUT
from vlm.image.detections import read_npz
from vlm.text.tokenizer import split_words

NAMES = {rgb: name for name, rgb in COLORS.items()}
COLOR = "(" + "|".join(COLORS) + ")"
SHAPE = "(circle|square|triangle)"
PARTS = ("standard", "compositional", "longer")


class Seen(NamedTuple):
    color: str
    shape: str
    centre: np.ndarray


def look(path: str) -> dict[str, Seen]:
    """The objects of a picture, by colour, from its pixels."""
    pixels = np.asarray(Image.open(path))
    seen = {}
    for rgb, name in NAMES.items():
        rows, columns = np.nonzero((pixels == rgb).all(2))
        if not len(rows):
            continue
        corner = {(rows.min(), columns.min()), (rows.max(), columns.min())}
        filled = corner & set(zip(rows, columns, strict=True))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert height == width, "objects overlap"
        shape = {2: "square", 1: "triangle", 0: "circle"}[len(filled)]
        centre = np.array([columns.min() + columns.max(), rows.min() + rows.max()]) / 2
        seen[name] = Seen(name, shape, centre)
    return seen


def solve(question: str, seen: dict[str, Seen]) -> str:
    """The answer, by a rule for each form of question."""

    def truth(is_so: Any) -> str:
        return ["no", "yes"][bool(is_so)]

    def number(plural: str) -> int:
        return sum(f"{each.shape}s" == plural for each in seen.values())

    def by_distance(color: str) -> list[str]:
        away = {
            name: np.linalg.norm(each.centre - seen[color].centre) for name, each in seen.items()
        }
        return sorted(seen.keys() - {color}, key=lambda name: away[name])

    rules: dict[str, Callable[..., str]] = {
        f"What shape is the {COLOR} object": lambda c: seen[c].shape,
        f"Is there a {SHAPE} that is {COLOR}": lambda s, c: truth(c in seen and seen[c].shape == s),
        r"How many (\w+) are there": lambda s: str(number(s)),
        r"Are there more (\w+) than (\w+)": lambda s, t: truth(number(s) > number(t)),
        f"Is the {COLOR} object on the left or on the right": lambda c: (
            "left" if seen[c].centre[0] < 31.5 else "right"
        ),
        f"Is the {COLOR} object at the top or at the bottom": lambda c: (
            "top" if seen[c].centre[1] < 31.5 else "bottom"
        ),
        f"Is the {COLOR} object left of the {COLOR} object": lambda c, d: truth(
            seen[c].centre[0] < seen[d].centre[0]
        ),
        f"Is the {COLOR} object above the {COLOR} object": lambda c, d: truth(
            seen[c].centre[1] < seen[d].centre[1]
        ),
        f"Is the {COLOR} object the closest to the {COLOR} object": lambda c, d: truth(
            by_distance(d)[0] == c
        ),
        f"Is the {COLOR} object the furthest from the {COLOR} object": lambda c, d: truth(
            by_distance(d)[-1] == c
        ),
        f"How many other objects have the shape of the {COLOR} object": lambda c: str(
            [each.shape for each in seen.values()].count(seen[c].shape) - 1
        ),
        f"Is the {COLOR} object a {SHAPE} and the {COLOR} object a {SHAPE}": (
            lambda c, s, d, t: truth(seen[c].shape == s and seen[d].shape == t)
        ),
        f"Is the {COLOR} object a {SHAPE} or the {COLOR} object a {SHAPE}": (
            lambda c, s, d, t: truth(seen[c].shape == s or seen[d].shape == t)
        ),
        f"Is the {COLOR} object not a {SHAPE}": lambda c, s: truth(seen[c].shape != s),
        f"What shape is the object closest to the {COLOR} object": lambda c: (
            seen[by_distance(c)[0]].shape
        ),
    }
    (answer,) = (
        rule(*found.groups())
        for pattern, rule in rules.items()
        if (found := re.fullmatch(pattern + r"\?", question))
    )
    return answer


@pytest.fixture(scope="module", params=PARTS)
def scenes(request: pytest.FixtureRequest) -> Scenes:
    return Scenes(part=request.param, scenes=240)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_answers_are_those_that_the_pixels_give(scenes: Scenes, split: Any) -> None:
    table = scenes.table(split)
    counts = {"train": 240, "validation": 27, "test": 60}
    longer = (scenes.part, split) == ("longer", "test")
    assert len(table) == (29 if longer else 33) * counts[split]
    for path, rows in groupby(table.to_pylist(), lambda row: row["image"]):
        seen = look(path)
        assert len(seen) == (10 if longer else 6)
        for row in rows:
            assert row["answers"] == [solve(row["question"], seen)], (path, row["question"])
            assert row["answers"][0] in row["choices"]


def test_the_compositional_test_asks_about_pairs_that_training_never_shows() -> None:
    data = Scenes(part="compositional", scenes=240)
    shown = defaultdict(set)
    for split in ("train", "validation", "test"):
        for path in data.table(split)["image"].unique().to_pylist():
            shown[split] |= {(each.color, each.shape) for each in look(path).values()}
    held_out = {(color, shape) for color, (shape,) in HELD_OUT.items()}
    assert shown["train"] == {(c, s) for c in COLORS for s in SHAPES} - held_out
    assert shown["validation"] <= shown["train"]
    assert held_out <= shown["test"]
    for split, allowed in (("train", shown["train"]), ("test", held_out)):
        for question in data.table(split)["question"].to_pylist():
            if found := re.fullmatch(f"Is there a {SHAPE} that is {COLOR}\\?", question):
                assert found.groups()[::-1] in allowed


def chance(row: dict[str, Any]) -> float:
    return 1 / len(row["choices"])


def check_at_chance(rows: list[dict[str, Any]], right: list[bool]) -> None:
    """No form of question is answered more often than by chance, by four standard errors."""
    by_form = defaultdict(list)
    for row, is_right in zip(rows, right, strict=True):
        by_form[row["question_type"]].append((is_right, chance(row)))
    assert len(by_form) == 15
    for form, found in by_form.items():
        p = found[0][1]
        most = p + 4 * sqrt(p * (1 - p) / len(found))
        assert sum(is_right for is_right, _ in found) / len(found) < most, form


@pytest.fixture(scope="module")
def many() -> Scenes:
    return Scenes(scenes=600)


def test_the_words_alone_are_at_chance_by_count(many: Scenes) -> None:
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in many.table("train").to_pylist():
        counts[row["question"]][row["answers"][0]] += 1
    rows = many.table("test").to_pylist()
    guesses = [counts[row["question"]].most_common(1) for row in rows]
    right = [
        (guess[0][0] if guess else row["choices"][0]) == row["answers"][0]
        for guess, row in zip(guesses, rows, strict=True)
    ]
    check_at_chance(rows, right)
    # Each answer is given as often as the others, within four standard errors.
    forms = defaultdict(Counter)
    for row in many.table("train").to_pylist():
        forms[row["question_type"], chance(row)][row["answers"][0]] += 1
    for (form, p), found in forms.items():
        for count in found.values():
            assert abs(count - p * found.total()) < 4 * sqrt(p * (1 - p) * found.total()), form


def train_linear(x: torch.Tensor, y: torch.Tensor, classes: int) -> torch.nn.Linear:
    model = torch.nn.Linear(x.shape[1], classes)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02, weight_decay=1e-3)
    for _ in range(150):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


def trained_guesses(
    data: Scenes, features: Callable[[list[dict[str, Any]]], np.ndarray]
) -> tuple[list[dict[str, Any]], list[bool]]:
    """Of one linear model a form of question, trained on features of each question."""
    splits = [data.table(split).to_pylist() for split in ("train", "test")]
    rows_out: list[dict[str, Any]] = []
    right: list[bool] = []
    for form in sorted({row["question_type"] for row in splits[0]}):
        train, test = ([row for row in rows if row["question_type"] == form] for rows in splits)
        answers = train[0]["choices"]
        x, x_test = (torch.tensor(features(rows), dtype=torch.float32) for rows in (train, test))
        y = torch.tensor([answers.index(row["answers"][0]) for row in train])
        found = train_linear(x, y, len(answers))(x_test).argmax(1).tolist()
        rows_out += test
        right += [answers[n] == row["answers"][0] for n, row in zip(found, test, strict=True)]
    return rows_out, right


def test_the_words_alone_are_at_chance_by_training(many: Scenes) -> None:
    def features(rows: list[dict[str, Any]]) -> np.ndarray:
        """Each word at each place, and each pair of neighbours."""
        places: dict[Any, int] = {}
        for color_or_shape in (*COLORS, *SHAPES, *(f"{s}s" for s in SHAPES)):
            places.setdefault(color_or_shape, len(places))
        found = np.zeros((len(rows), 20, len(places)))
        for number, row in enumerate(rows):
            for place, word in enumerate(split_words(row["question"])):
                if word in places:
                    found[number, place, places[word]] = 1
        return found.reshape(len(rows), -1)

    check_at_chance(*trained_guesses(many, features))


def test_the_picture_alone_is_at_chance_by_training(many: Scenes) -> None:
    """Even of one that knows each object: which colours and shapes there are, and where."""

    def features(rows: list[dict[str, Any]]) -> np.ndarray:
        found = []
        for row in rows:
            objects = read_npz(Path(row["image"]).with_suffix(".npz")).features
            colors = objects[:, :10].argmax(1)
            of_color = np.zeros((10, 6))
            of_color[colors] = np.hstack([objects[:, 10:], np.ones((len(objects), 1))])
            of_shape = objects[:, 10:13].sum(0)
            found.append(np.concatenate([of_color.ravel(), of_shape / 3, of_shape**2 / 9]))
        return np.array(found)

    check_at_chance(*trained_guesses(many, features))


def test_a_leak_would_be_found(many: Scenes) -> None:
    table = many.table("test")
    rows = table.to_pylist()
    leaky = [row["answers"][0] == row["choices"][0] or n % 3 == 0 for n, row in enumerate(rows)]
    with pytest.raises(AssertionError, match=r"\?"):
        check_at_chance(rows, leaky)
    wrong = look(rows[0]["image"])
    first = next(iter(wrong))
    wrong[first] = wrong[first]._replace(shape="star")
    asked = f"What shape is the {first} object?"
    assert solve(asked, wrong) == "star"


def test_the_objects_are_where_the_pixels_say(many: Scenes) -> None:
    path = many.table("test")["image"][0].as_py()
    features, boxes, _ = read_npz(Path(path).with_suffix(".npz"))
    seen = look(path)
    assert len(features) == len(seen) == 6
    for feature, box in zip(features, boxes, strict=True):
        each = seen[list(COLORS)[feature[:10].argmax()]]
        assert SHAPES[feature[10:13].argmax()] == each.shape
        assert feature[13:] * 63 == pytest.approx(each.centre, abs=1e-4)
        assert (box[:2] + box[2:]) * 32 - 0.5 == pytest.approx(each.centre, abs=1e-4)


def test_words_and_answers_of_the_test_occur_in_training() -> None:
    for part in PARTS:
        data = Scenes(part=part, scenes=240)  # type: ignore[arg-type]  # plain str
        test: pa.Table = data.table("test")
        words = {word for text in test["question"].to_pylist() for word in split_words(text)}
        assert words <= set(data.words)
        assert {given for (given,) in test["answers"].to_pylist()} <= set(data.answers)


def test_abilities_choose_questions_about_the_same_images() -> None:
    whole = Scenes(scenes=40).read("train")
    some = Scenes(scenes=40, abilities=["position", "count"]).read("train")
    assert whole is not None
    assert some is not None
    assert len(some) == 6 * 40
    assert some["image"].unique().equals(whole["image"].unique())
    chosen = [row for row in whole.to_pylist() if row["answer_type"] in ("position", "count")]
    assert some.to_pylist() == chosen


def test_unknown_abilities_are_refused() -> None:
    with pytest.raises(ValueError, match=r"abilities: got 'positon'; .* Did you mean position\?"):
        Scenes(abilities=["positon"])


def test_a_longer_test_without_questions_is_refused() -> None:
    with pytest.raises(ValueError, match="abilities: got count with part=longer, whose test asks"):
        Scenes(part="longer", abilities=["count"])


def test_a_question_is_repeated_only_where_there_is_no_other() -> None:
    table = Scenes(scenes=40).table("train")
    for _, rows in groupby(table.to_pylist(), lambda row: (row["image"], row["question_type"])):
        asked = [(row["question"], row["answers"][0]) for row in rows]
        if asked[0][0].startswith("Is the") and "left of" in asked[0][0]:
            assert len(set(asked)) == len(asked) == 4
