"""Objects that are there and that are not: what sets list, POPE, the pointing game."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import ROOT
from PIL import Image

from vlm.cli.main import main
from vlm.datasets import GQA, Scenes
from vlm.datasets.presence import Presence
from vlm.trust import objects
from vlm.trust.subject import Unavailable

SCENES = str(ROOT / "configs/scenes.yaml")


@pytest.mark.parametrize("language", ["en", "de"])
def test_scenes_know_their_objects(language: Any) -> None:
    """The set's own questions on presence have the answers that its objects give."""
    data = Scenes(scenes=36, language=language)
    known = data.presence("test")
    asked = 0
    for row in data.table("test").to_pylist():
        if row["question_type"] != "Is there a {} that is {}?":
            continue
        there = [known.question.format(*name) for name in known.objects(row["image"])]
        expected = known.yes if row["question"] in there else known.no
        assert row["answers"] == [expected]
        asked += 1
    assert asked == 18


def test_boxes_of_scenes_lie_on_the_object() -> None:
    data = Scenes(scenes=36)
    image = data.table("test")["image"][0].as_py()
    found = data.presence("test").objects(image)
    assert len(found) == 6
    pixels = np.asarray(Image.open(image).convert("RGB")).astype(int)
    for (_, color), [(x0, y0, x1, y1)] in found.items():
        middle = pixels[int(32 * (y0 + y1)), int(32 * (x0 + x1))]
        assert color != "red" or middle.argmax() == 0
        assert middle.sum() > 0
        assert (x1 - x0, y1 - y0) == pytest.approx((11 / 64, 11 / 64))


def test_gqa_reads_its_scene_graphs(tmp_path: Path) -> None:
    data = GQA(root=tmp_path)
    assert data.presence("validation") is None
    box = {"x": 10, "y": 0, "w": 10, "h": 20}
    graph = {"width": 100, "height": 40, "objects": {"1": {"name": "dog"} | box}}
    folder = tmp_path / "sceneGraphs"
    folder.mkdir()
    (folder / "val_sceneGraphs.json").write_text(json.dumps({"23": graph}))
    known = data.presence("validation")
    assert known is not None
    assert known.objects("images/23.jpg") == {("dog",): [(0.1, 0.0, 0.2, 0.5)]}
    assert data.presence("test") is None
    with pytest.raises(ValueError, match=r"val_sceneGraphs\.json.*'24'"):
        known.objects("images/24.jpg")


def subject(answer: Any) -> Any:
    """What `hallucination` reads of a subject, whose model answers by a function of the image and
    the question."""
    data = Scenes(scenes=144)

    def ask(table: pa.Table) -> Any:
        rows = table.to_pylist()
        return SimpleNamespace(answers=[answer(row["image"], row["question"]) for row in rows])

    return SimpleNamespace(
        vocabulary=None,
        data=SimpleNamespace(dataset=data),
        split="test",
        results=SimpleNamespace(table=data.table("test")),
        ask=ask,
    )


def test_a_model_that_always_says_yes_sees_what_is_not_there() -> None:
    found = objects.hallucination(subject(lambda image, question: "yes"))["numbers"]
    assert list(found) == ["random", "popular", "adversarial"]
    for row in found.values():
        assert row["questions"] == 36 * 6
        assert (row["accuracy"], row["precision"], row["recall"]) == (0.5, 0.5, 1)
        assert (row["f1"], row["yes"]) == (pytest.approx(2 / 3), 1)


def test_a_model_that_sees_makes_no_mistake() -> None:
    known = Scenes(scenes=144).presence("test")

    def answer(image: str, question: str) -> str:
        return (
            "yes" if question in [known.question.format(*n) for n in known.objects(image)] else "no"
        )

    for row in objects.hallucination(subject(answer))["numbers"].values():
        assert (row["accuracy"], row["precision"], row["recall"], row["yes"]) == (1, 1, 1, 0.5)


def test_popular_and_adversarial_objects_are_the_frequent_ones() -> None:
    """ "a" is in every image but one, which has "b" alone, as one other image has "b" and "c"."""
    box = [(0.0, 0.0, 1.0, 1.0)]
    images = [["a", "d"], ["a", "d"], ["a", "d"], ["b", "c"], ["b"]]
    shown = {str(n): {(name,): box for name in names} for n, names in enumerate(images)}
    known = SimpleNamespace(question="Is there a {}?", yes="yes", no="no")
    rows = [r for r in objects._questions(known, shown) if r["image"] == "4"]  # type: ignore[arg-type]
    first = {r["answer_type"]: r["question"] for r in reversed(rows)}
    assert first["there"] == "Is there a b?"
    assert first["popular"] in ("Is there a a?", "Is there a d?")
    assert first["adversarial"] == "Is there a c?"
    assert {r["answers"][0] for r in rows if r["answer_type"] != "there"} == {"no"}


def test_without_objects_or_a_yes_nothing_is_measured() -> None:
    of_words = subject(lambda image, question: "red")
    of_words.vocabulary = ["red", "yes"]
    with pytest.raises(Unavailable, match='that can answer "yes" and "no"'):
        objects.hallucination(of_words)
    of_words.data.dataset = SimpleNamespace(presence=lambda split: None)
    with pytest.raises(Unavailable, match="needs the objects of the test images"):
        objects.hallucination(of_words)


def test_points_inside_of_boxes() -> None:
    points = np.array([[0.5, 0.5], [0.1, 0.9], [0.2, 0.5]])
    boxes = np.array([[0.2, 0.4, 0.6, 0.6], [0.0, 0.8, 0.1, 1.0]])
    assert objects._inside(points, boxes).tolist() == [True, False, True]


def test_a_model_that_comes_with_vlm_sees_objects_and_points_at_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(objects, "EXPLAINED", 8)
    only = ["--only", "hallucination", "grounding", "unanswerable", "forgetting", "consistency"]
    main(["report", "scenes", "-c", SCENES, "--dataset.scenes=36", *only])
    content = json.loads((tmp_path / "scenes_report/report.json").read_text())
    sections = content["sections"]
    assert sections["hallucination"]["numbers"]["random"]["accuracy"] > 0.7
    wordings = {row["wording"]: row for row in sections["consistency"]["numbers"]}
    assert wordings["mirrored image, no side named"]["questions"] == 243
    assert wordings["mirrored image, no side named"]["accuracy"][1] > 0.8
    assert wordings["mirrored image, left and right exchanged"]["questions"] == 54
    pointing = sections["grounding"]["numbers"]["pointing"]
    assert pointing["best"] >= pointing["hits"] > 0.4 > pointing["chance"]
    assert "no answer, and this split has none" in sections["unanswerable"]["text"][0]
    assert "vlm forgetting RUN" in sections["forgetting"]["text"][0]


def test_yes_and_no_of_models_that_write() -> None:
    known = Presence("Is there a {}?", "yes", "no", lambda image: {})
    said = ["Yes", "yes.", " No.", "no", "nothing", "yes, two"]
    assert [objects._word(known, one) for one in said] == [
        "yes",
        "yes",
        "no",
        "no",
        "nothing",
        "yes, two",
    ]
