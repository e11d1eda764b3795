"""Sort-of-CLEVR, SHAPES and SQOOP-lite: their answers, found from the pixels alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from vlm.datasets import SHAPES, SortOfCLEVR, SQOOPLite
from vlm.datasets.base import Dataset
from vlm.datasets.generated import shapes, sort_of_clevr
from vlm.datasets.generated import sqoop as sqoop_lite
from vlm.datasets.generated.base import GeneratedDataset
from vlm.datasets.generated.sort_of_clevr import COLORS
from vlm.datasets.generated.sqoop import LETTERS


@pytest.fixture(autouse=True, scope="module")
def _fewer_pictures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sort_of_clevr, "PICTURES", {"train": 1_000, "test": 200})
        patch.setitem(sqoop_lite.PICTURES, "train", 1_000)
        patch.setattr(GeneratedDataset, "_check_digests", lambda *_: None)
        yield


def by_picture(data: Dataset, split: Any, step: int) -> Iterator[tuple[np.ndarray, list[Any]]]:
    """Pixels and rows of every so many pictures."""
    for number, (path, asked) in enumerate(
        groupby(data.table(split).to_pylist(), lambda row: row["image"])
    ):
        if number % step == 0:
            yield np.asarray(Image.open(path)), list(asked)


@pytest.mark.parametrize(("split", "objects", "seen"), [("test", 6, 6), ("train", 4, 4)])
def test_sort_of_clevr_is_answered_as_its_pixels_say(split: Any, objects: int, seen: int) -> None:
    data = SortOfCLEVR(objects=objects)
    assert len(data.read(split) or ()) == 20 * {"train": 1_000, "test": 200}[split]
    for pixels, rows in by_picture(data, split, 5):
        shapes, centres = {}, {}
        for name, rgb in COLORS.items():
            where = np.argwhere((pixels == rgb).all(2))
            if len(where):
                shapes[name] = "square" if len(where) == 11 * 11 else "circle"
                centres[name] = where.mean(0)
        assert len(shapes) == seen
        assert Counter(row["answer_type"] for row in rows) == {"unary": 10, "relational": 10}
        assert len({row["question"] for row in rows}) == 20
        for row in rows:
            (name,) = re.findall("|".join(COLORS), row["question"])
            away = {
                float(np.hypot(*(centres[other] - centres[name]))): other
                for other in centres
                if other != name
            }
            expected = {
                "What shape is the": shapes[name],
                "Is the left": "yes" if centres[name][1] < 37 else "no",
                "Is the top": "yes" if centres[name][0] < 37 else "no",
                "What shape closest": shapes[away[min(away)]],
                "What shape furthest": shapes[away[max(away)]],
                "How many": str(list(shapes.values()).count(shapes[name])),
            }
            words = row["question"].replace("?", "").split()
            key = " ".join(words[:2])
            key += next((f" {w}" for w in ("left", "top", "closest", "furthest") if w in words), "")
            key = "What shape is the" if key == "What shape" else key
            assert row["answers"] == [expected[key]], row


def cells_of(pixels: np.ndarray) -> dict[tuple[int, int], set[str]]:
    """Colour and shape in each cell, by the brightest channel and how it is filled."""
    found = {}
    for row, column in np.ndindex(3, 3):
        cell = pixels[10 * row : 10 * row + 10, 10 * column : 10 * column + 10].astype(int)
        channel = int(cell.max((0, 1)).argmax())
        if (most := cell[..., channel].max()) < 100:
            continue
        filled = cell[..., channel] / most
        rows, columns = np.nonzero(filled > 0.05)
        filled = filled[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        upper = filled[: len(filled) // 2].sum() / filled.sum()
        corners_cut = filled[0, 1] < 0.9 * filled[0, filled.shape[1] // 2]
        shape = "triangle" if upper < 0.42 else "circle" if corners_cut else "square"
        found[row, column] = {("red", "green", "blue")[channel], shape}
    return found


def is_there(words: list[str], cells: dict[tuple[int, int], set[str]]) -> bool:
    """Walks from each cell that is the first thing, towards the last."""
    opposite = {"above": (1, 0), "below": (-1, 0), "left": (0, 1), "right": (0, -1)}
    first, *steps, last = [word for word in words if word not in ("is", "of")]
    for place, names in cells.items():
        if first in names:
            row, column = place
            inside = True
            for step in steps:
                row, column = row + opposite[step][0], column + opposite[step][1]
                inside &= 0 <= row < 3 and 0 <= column < 3
            if inside and last in cells.get((row, column), ()):
                return True
    return False


@pytest.mark.parametrize(
    ("split", "count"),
    [
        pytest.param("train", 13_568, marks=pytest.mark.slow),
        ("validation", 1024),
        ("test", 1024),
    ],
)
def test_shapes_is_answered_as_its_pixels_say(split: Any, count: int) -> None:
    """For the official pictures this says that channels and meaning are read rightly."""
    data = SHAPES()
    assert len(data.table(split)) == count
    wrong = [
        row["question"]
        for pixels, (row,) in by_picture(data, split, 7 if split == "train" else 1)
        if is_there(row["question"].split(), cells_of(pixels)) != (row["answers"] == ["true"])
    ]
    assert wrong == []


def test_no_test_question_of_shapes_is_trained_on() -> None:
    with np.load(Path(shapes.__file__).with_name("shapes.npz")) as content:
        asked = {split: set(content[f"{split}_queries"].tolist()) for split in ("train", "test")}
    assert [len(asked[split]) for split in asked] == [212, 16]
    assert not asked["train"] & asked["test"]
    kinds = Counter(SHAPES().table("test")["answer_type"].to_pylist())
    assert kinds == {"0 relations": 128, "1 relations": 640, "2 relations": 256}


@pytest.fixture(scope="module")
def sqoop() -> SQOOPLite:
    return SQOOPLite(partners=2)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_sqoop_is_answered_as_its_pixels_say(sqoop: SQOOPLite, split: Any) -> None:
    forms = {
        name: np.array([list(map(int, row)) for row in dots.split()]).repeat(2, 0).repeat(2, 1)
        for name, dots in LETTERS.items()
    }
    for pixels, rows in by_picture(sqoop, split, 2):
        lit = pixels[..., 0] > 0
        labels, _ = ndimage.label(lit, np.ones((3, 3)))
        centres = {}
        for rows_of, columns_of in ndimage.find_objects(labels):
            crop = lit[rows_of, columns_of]
            (name,) = (n for n, f in forms.items() if f.shape == crop.shape and (f == crop).all())
            centres[name] = rows_of.start, columns_of.start
        assert len(centres) == 3
        assert len(rows) == 2
        for row in rows:
            one, relation, other = re.fullmatch(
                r"Is the (\w) ([\w ]+) the (\w)\?", row["question"]
            ).groups()  # type: ignore[union-attr]  # else it is a mistake
            (up, left), (other_up, other_left) = centres[one], centres[other]
            is_so = {
                "left of": left < other_left,
                "right of": left > other_left,
                "above": up < other_up,
                "below": up > other_up,
            }
            assert row["answers"] == ["yes" if is_so[relation] else "no"]


def pairs(data: Dataset, split: Any) -> set[tuple[str, str]]:
    return {(text[7], text[-2]) for text in data.table(split)["question"].to_pylist()}


@pytest.mark.parametrize("partners", [1, 2, 4, 9])
def test_sqoop_trains_on_so_many_partners_and_tests_on_others(partners: Any) -> None:
    data = SQOOPLite(partners=partners)
    seen, tested = pairs(data, "train"), pairs(data, "test")
    assert set(Counter(one for one, _ in seen).values()) == {partners}
    assert set(Counter(other for _, other in seen).values()) == {partners}
    assert pairs(data, "validation") == seen
    assert len(tested) == 50
    assert (tested <= seen) if partners == 9 else not (tested & seen)
    asked = data.table("test")["question"].to_pylist()
    assert asked == SQOOPLite().table("test")["question"].to_pylist()


def test_words_and_pictures_of_sqoop_are_at_chance_by_count(sqoop: SQOOPLite) -> None:
    table = sqoop.table("train")
    answers = [given == ["yes"] for given in table["answers"].to_pylist()]
    assert abs(np.mean(answers) - 0.5) < 4 * 0.5 / np.sqrt(len(answers))
    by_question: dict[str, list[bool]] = {}
    for question, is_yes in zip(table["question"].to_pylist(), answers, strict=True):
        by_question.setdefault(question, []).append(is_yes)
    assert len(by_question) == 10 * 2 * 4
    for question, found in by_question.items():
        assert abs(np.mean(found) - 0.5) < 4.5 * 0.5 / np.sqrt(len(found)), question


def test_other_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="partners: got 3; expected one of 1, 2, 4, 9"):
        SQOOPLite(partners=3)  # type: ignore[arg-type]  # which is the test
    with pytest.raises(ValueError, match="objects: got 7; expected 4 to 6"):
        SortOfCLEVR(objects=7)
