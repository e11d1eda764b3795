"""Scenes: right answers, found from the pixels alone, and what varies."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from itertools import groupby
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from scenes_solver import COLOR, PARTS, SHAPE, look, solve

from vlm.datasets import Scenes
from vlm.datasets.generated.questions import SHAPES, TEMPLATES, Asked
from vlm.datasets.generated.scenes import ABILITIES, COLORS, HELD_OUT
from vlm.datasets.generated.wordings import LANGUAGES, rows
from vlm.evaluation.results import Prediction, Results
from vlm.image.detections import read_npz
from vlm.text.words import split_words


@pytest.fixture(scope="module", params=PARTS)
def scenes(request: pytest.FixtureRequest) -> Scenes:
    return Scenes(part=request.param, scenes=240)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_answers_are_those_that_the_pixels_give(scenes: Scenes, split: Any) -> None:
    check_answers(scenes, split)


def check_answers(scenes: Scenes, split: Any) -> None:
    table = scenes.table(split)
    counts = {"train": 240, "validation": 27, "test": 60}
    longer = (scenes.part, split) == ("longer", "test")
    plain = table["relation"].null_count
    assert plain == (29 if longer else 33) * counts[split]
    for path, group in groupby(table.to_pylist(), lambda row: row["image"]):
        seen = look(path)
        assert len(seen) == (10 if longer else 6)
        for row in group:
            assert row["answers"] == [solve(row["question"], seen)], (path, row["question"])
            assert row["answers"][0] in row["choices"]


@pytest.fixture(scope="module")
def varied() -> Scenes:
    return Scenes(part="absent", scenes=240, pairs=True, clutter=12)


def test_each_wording_is_answered_rightly_beside_strokes(varied: Scenes) -> None:
    check_answers(varied, "validation")
    rows = {row["id"]: row for row in varied.table("validation").to_pylist()}
    counts = Counter(row["relation"] for row in rows.values())
    assert counts["paraphrase"] == counts[None] == 33 * 27
    assert counts["equivalent"] > counts["contradiction"] > 10 * 27
    opposite = {"yes": "no", "no": "yes"}
    for row in rows.values():
        if row["relation"]:
            pair = rows[row["pair"]]
            (answer,) = pair["answers"]
            expected = opposite[answer] if row["relation"] == "contradiction" else answer
            assert row["answers"] == [expected]
            same = ("image", "question_type", "answer_type", "choices")
            assert [row[name] for name in same] == [pair[name] for name in same]
            assert row["question"] != pair["question"]
            assert not pair["relation"]


def test_variations_leave_objects_and_questions_as_they_are(varied: Scenes) -> None:
    """So a difference in accuracy comes from what was varied."""
    plain = Scenes(part="absent", scenes=240).table("validation").to_pylist()
    rows = [row for row in varied.table("validation").to_pylist() if not row["relation"]]
    assert [row["question"] for row in rows] == [row["question"] for row in plain]
    assert [row["id"] for row in rows] == [row["id"] for row in plain]
    strokes = 0
    for row, other in zip(rows[::33], plain[::33], strict=True):
        pixels, without = (np.asarray(Image.open(each["image"])) for each in (row, other))
        changed = (pixels != without).any(2)
        strokes += changed.sum()
        assert not without[changed].any(), "a stroke lies on an object"
        objects = [Path(each["image"]).with_suffix(".npz").read_bytes() for each in (row, other)]
        assert objects[0] == objects[1]
    assert 12 * 3 * 27 * 0.9 < strokes < 12 * 5 * 27


WORDS = {
    "de": "rote orangefarbene gelbe grüne türkise blaue rosafarbene braune graue weiße "
    "Kreis Quadrat Dreieck Kreise Quadrate Dreiecke",
    "es": "rojo naranja amarillo verde cian azul rosa marrón gris blanco "
    "círculo cuadrado triángulo círculos cuadrados triángulos",
}
ANSWERS = {
    "en": "yes no left right top bottom circle square triangle",
    "de": "ja nein links rechts oben unten Kreis Quadrat Dreieck",
    "es": "sí no izquierda derecha arriba abajo círculo cuadrado triángulo",
}


@pytest.mark.parametrize("language", ["de", "es"])
def test_another_language_asks_the_same(language: Any) -> None:
    english, other = (
        Scenes(scenes=80, pairs=True, language=each).table("train").to_pylist()
        for each in ("en", language)
    )
    names = [*COLORS, *SHAPES, *(f"{shape}s" for shape in SHAPES)]
    of_word = dict(zip(WORDS[language].split(), names, strict=True))
    if language == "de":  # einem roten, ein rotes
        of_word |= {f"{word}{end}": of_word[word] for word in [*of_word][:10] for end in "ns"}
    of_answer = dict(zip(ANSWERS[language].split(), ANSWERS["en"].split(), strict=True))
    for row, asked in zip(english, other, strict=True):
        named, found = (
            Counter(of.get(word, word) for word in re.findall(r"\w+", text))
            for of, text in (({}, row["question"]), (of_word, asked["question"]))
        )
        assert {w: n for w, n in named.items() if w in names} == {
            w: n for w, n in found.items() if w in names
        }, asked["question"]
        back = [of_answer.get(answer, answer) for answer in asked["answers"] + asked["choices"]]
        assert back == row["answers"] + row["choices"]
        kept = ("id", "answer_type", "question_type", "pair", "relation")
        assert [row[name] for name in kept] == [asked[name] for name in kept]


def test_wordings_are_filled_in_the_right_order() -> None:
    """One line of each table, by hand: a change of order would turn the answers round."""
    asked = [
        Asked(template, ("red", "blue"), "yes", ("yes", "no"))
        for template in TEMPLATES
        if template.ability in ("left of", "closest")
    ]
    asked += [
        Asked(template, ("circle", "red"), "no", ("yes", "no"))
        for template in TEMPLATES
        if template.ability == "exist"
    ]
    found = {name: rows(asked, language, pairs=True) for name, language in LANGUAGES.items()}
    assert {name: [row["question"] for row in of] for name, of in found.items()} == {
        "en": [
            "Is the red object left of the blue object?",
            "Is the red object the closest to the blue object?",
            "Is there a circle that is red?",
            "Does the red object lie to the left of the blue object?",
            "Is the blue object right of the red object?",
            "Is the blue object left of the red object?",
            "Is the red object the nearest to the blue object?",
            "Is no object closer to the blue object than the red object?",
            "Is another object closer to the blue object than the red object?",
            "Can you see a circle that is red?",
            "Is the red object a circle?",
            "Is the red object not a circle?",
        ],
        "de": [
            "Ist das rote Objekt links von dem blauen Objekt?",
            "Ist das rote Objekt dem blauen Objekt am nächsten?",
            "Gibt es ein rotes Objekt, das ein Kreis ist?",
            "Liegt das rote Objekt links von dem blauen Objekt?",
            "Ist das blaue Objekt rechts von dem roten Objekt?",
            "Ist das blaue Objekt links von dem roten Objekt?",
            "Liegt das rote Objekt dem blauen Objekt am nächsten?",
            "Ist kein Objekt dem blauen Objekt näher als das rote Objekt?",
            "Ist ein anderes Objekt dem blauen Objekt näher als das rote Objekt?",
            "Ist ein rotes Objekt zu sehen, das ein Kreis ist?",
            "Ist das rote Objekt ein Kreis?",
            "Ist das rote Objekt kein Kreis?",
        ],
        "es": [
            "¿Está el objeto rojo a la izquierda del objeto azul?",
            "¿Es el objeto rojo el más cercano al objeto azul?",
            "¿Hay un círculo que sea rojo?",
            "¿Se encuentra el objeto rojo a la izquierda del objeto azul?",
            "¿Está el objeto azul a la derecha del objeto rojo?",
            "¿Está el objeto azul a la izquierda del objeto rojo?",
            "¿Es el objeto rojo el más próximo al objeto azul?",
            "¿Ningún objeto está más cerca del objeto azul que el objeto rojo?",
            "¿Hay otro objeto más cerca del objeto azul que el objeto rojo?",
            "¿Se ve un círculo que sea rojo?",
            "¿Es el objeto rojo un círculo?",
            "¿El objeto rojo no es un círculo?",
        ],
    }
    assert [row["answer"] for row in found["es"][3:]] == [
        *("sí", "sí", "no") * 2, "no", "no", "sí"
    ]  # fmt: skip
    for language in LANGUAGES.values():
        assert len(language.wordings) == len(TEMPLATES)
        assert {wording.text.count("{") for wording in language.wordings} == {1, 2, 4}
    assert [wording.text for wording in LANGUAGES["en"].wordings] == [t.text for t in TEMPLATES]


def test_priors_change_between_training_and_test() -> None:
    """The most frequent answer to a form in training is worth 80 % of validation, and little of
    test."""
    data = Scenes(part="priors", scenes=600)
    given: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in data.table("train").to_pylist():
        given[row["question_type"]][row["answers"][0]] += 1
    assert len(given) == 15
    for split, share in (("validation", {2: 0.8, 3: 0.8}), ("test", {2: 0.2, 3: 0.1})):
        right = defaultdict(list)
        for row in data.table(split).to_pylist():
            (guess, _), *_ = given[row["question_type"]].most_common(1)
            right[row["question_type"], len(row["choices"])].append(guess == row["answers"][0])
        for (form, answers), found in right.items():
            p = share[answers]
            assert abs(np.mean(found) - p) < 4 * sqrt(p * (1 - p) / len(found)), (split, form)
    favourites = {counts.most_common(1)[0][0] for counts in given.values()}
    assert {"yes", "no"} < favourites  # so no answer is right whatever is asked


def test_answers_that_an_object_is_not_there_are_a_type_of_their_own() -> None:
    table = Scenes(part="absent", scenes=240).table("test").to_pylist()
    for row in table:
        assert (row["answers"] == ["not there"]) == (row["answer_type"] == "not there")
        premise = "the {} object" in row["question_type"]
        assert ("not there" in row["choices"]) == premise
    assert {row["answer_type"] for row in table} == {*ABILITIES, "not there"}
    data = Scenes(part="absent", scenes=240)
    given = {row["id"]: Prediction("not there") for row in table}
    lines = Results(data.table("test"), given, data).types()
    assert {name: line.mean for name, line in lines.items() if line.mean} == {"not there": 1}
    some = Scenes(part="absent", scenes=240, abilities=["position"]).table("test").to_pylist()
    assert {row["answer_type"] for row in some} == {"position", "not there"}
    assert {row["question_type"] for row in some} == {
        "Is the {} object on the left or on the right?",
        "Is the {} object at the top or at the bottom?",
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"part": "prior"}, "part: got 'prior'; expected one of standard, compositional, longer"),
        ({"language": "fr"}, "language: got 'fr'; expected one of en, de, es"),
        ({"clutter": -1}, "clutter: got -1; expected a number of strokes"),
    ],
)
def test_what_there_is_not_is_refused(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scenes(**given)


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


def test_the_objects_are_where_the_pixels_say() -> None:
    path = Scenes(scenes=60).table("test")["image"][0].as_py()
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
    for _, group in groupby(table.to_pylist(), lambda row: (row["image"], row["question_type"])):
        asked = [(row["question"], row["answers"][0]) for row in group]
        if asked[0][0].startswith("Is the") and "left of" in asked[0][0]:
            assert len(set(asked)) == len(asked) == 4
