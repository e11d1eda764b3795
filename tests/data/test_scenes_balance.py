"""Neither the words of a question nor its image alone give answers of Scenes away."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scenes_solver import look, solve

from vlm.datasets import Scenes
from vlm.datasets.generated.questions import SHAPES
from vlm.datasets.generated.scenes import COLORS
from vlm.image.detections import read_npz
from vlm.text.words import split_words


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


@pytest.fixture(scope="module", params=["standard", pytest.param("absent", marks=pytest.mark.slow)])
def many(request: pytest.FixtureRequest) -> Scenes:
    return Scenes(part=request.param, scenes=600)


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


@pytest.mark.slow
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
