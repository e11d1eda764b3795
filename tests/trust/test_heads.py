"""Every kind of head is calibrated, and answers the report as it answers `VQA.answer`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from shared_models import bag, conv, multi_task, put_together

import vlm
from vlm.core.calibration import Calibration
from vlm.data.images.store import ImageStore
from vlm.datasets import EasyVQA
from vlm.datasets.table import question_table, with_column
from vlm.heads import ChoiceScores, Classification, Generation, MultipleChoice, TransformerDecoder
from vlm.heads.calibration import _of_texts, decode
from vlm.trust.asking import ask
from vlm.trust.calibrate import fit

decoder = partial(TransformerDecoder, dim=14, num_heads=2, max_length=8)
HEADS: dict[str, tuple[str, Callable[[], vlm.VQA]]] = {
    "sigmoid": ("platt", lambda: put_together(conv(), bag(), Classification)),
    "softmax": (
        "temperature",
        lambda: put_together(conv(), bag(), partial(Classification, answers=ANSWERS, loss="ce")),
    ),
    "choices": (
        "temperature",
        lambda: put_together(conv(), bag(), partial(MultipleChoice, text_dim=11)),
    ),
    "written choices": (
        "temperature",
        lambda: put_together(conv(), bag(), partial(Generation, decoder=decoder, choose=True)),
    ),
    "text": ("length", lambda: put_together(conv(), bag(), partial(Generation, decoder=decoder))),
    "several": ("length", multi_task),
}
ANSWERS = ["yes", "no", "red", "blue"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    folder, rows = tmp_path_factory.mktemp("images"), []
    for number in range(12):
        path = folder / f"{number}.png"
        Image.new("RGB", (32, 32), (20 * number, 0, 0)).save(path)
        for question in ("what is the colour?", "is the red"):
            choices = ["red", "blue", "no"][: 2 + number % 2]
            row = {"id": f"{number} {question}", "image": str(path), "question": question}
            rows.append(row | {"answers": [choices[number % 2]], "choices": choices})
    return question_table(rows, "made up")


def test_the_first_of_equal_choices_stays_the_answer() -> None:
    texts = [str(number) for number in range(5)]
    head = MultipleChoice(13, text_dim=11)
    output = ChoiceScores(torch.zeros(1, 5), torch.ones(1, 5, dtype=torch.bool), [texts])
    (ranked,) = decode(head, output, 3, Calibration("temperature", 0.5))
    assert [text for text, _ in ranked] == texts[:3]
    assert ranked[0][1] == pytest.approx(0.2)


def test_no_set_holds_an_answer_that_the_model_cannot_give(table: pa.Table) -> None:
    model = put_together(conv(), bag(), partial(MultipleChoice, text_dim=11)).model
    right = pa.array([["purple"], *table["answers"].to_pylist()[1:]], pa.list_(pa.string()))
    images = ImageStore(model.image_encoder.transform)  # type: ignore[arg-type]
    everything = Calibration("temperature", 1.0, set_threshold=0.0)
    asked = ask(model, with_column(table, "answers", right), images, everything)
    assert asked.of_right is not None
    assert asked.set_sizes is not None
    assert (asked.of_right >= 0).tolist() == [False] + 23 * [True]
    assert asked.set_sizes.tolist() == [len(row) for row in table["choices"].to_pylist()]


def test_images_of_one_patient_count_once(table: pa.Table) -> None:
    model = HEADS["sigmoid"][1]().model
    images = ImageStore(model.image_encoder.transform)  # type: ignore[arg-type]
    patients = pa.array([str(row // 6) for row in range(24)])  # four, with three images each

    def asked(part: pa.Table, known: object, inputs: bool) -> object:
        return ask(model, part, images, known, inputs)  # type: ignore[arg-type]

    grouped = with_column(table, "group", patients)
    found = fit(model, EasyVQA(Path("none")), grouped, asked)  # type: ignore[arg-type]
    assert (found.certified_on, found.images) == (12, 2)


@pytest.mark.parametrize("inputs", [False, True])
def test_written_answers_are_searched_for_no_more_than_needed(
    inputs: bool, table: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = HEADS["text"][1]().model
    searched, search = [], model.head.decode

    def counted(*given: Any) -> Any:
        searched.append(given)
        return search(*given)

    monkeypatch.setattr(model.head, "decode", counted)
    ask(model, table, ImageStore(model.image_encoder.transform), None, inputs)  # type: ignore[arg-type]
    assert len(searched) == 1 + inputs


def test_of_large_parts_whole_images_are_asked_a_few_at_a_time(
    table: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlm.trust.calibrate.MOST", 3)
    model = HEADS["sigmoid"][1]().model
    sizes = []

    class Images(ImageStore):
        def read(self, paths: Sequence[str], questions: Sequence[str]) -> torch.Tensor:
            sizes.append(len(paths))
            return super().read(paths, questions)

    images = Images(model.image_encoder.transform)  # type: ignore[arg-type]

    def asked(part: pa.Table, known: object, inputs: bool) -> object:
        return ask(model, part, images, known, inputs, images_per_batch=1)  # type: ignore[arg-type]

    found = fit(model, EasyVQA(Path("none")), table, asked)  # type: ignore[arg-type]
    assert (found.questions, found.certified_on, found.images) == (4, 4, 2)
    assert sizes == 6 * [1]  # two images of each part, those of the selection part twice


@pytest.mark.parametrize("name", HEADS)
def test_a_head_is_calibrated_and_answers_the_same(name: str, table: pa.Table) -> None:
    method, make = HEADS[name]
    model = make().model
    right = table["answers"].to_pylist()
    images = ImageStore(model.image_encoder.transform)  # type: ignore[arg-type]

    def asked(part: pa.Table, known: object, inputs: bool) -> object:
        return ask(model, part, images, known, inputs)  # type: ignore[arg-type]

    found = fit(model, EasyVQA(Path("none")), table, asked)  # type: ignore[arg-type]
    assert found.method == method
    assert (found.set_threshold is None) is (method == "length")
    plain, calibrated = ask(model, table, images), ask(model, table, images, found)
    assert calibrated.answers == plain.answers
    # Random weights are right of some answers at best: what is learned is how rarely.
    scores = [EasyVQA(Path("none")).score(*x) for x in zip(plain.answers, right, strict=True)]
    assert calibrated.probability.mean() == pytest.approx(np.mean(scores), abs=0.25)
    assert calibrated.raw.tolist() == plain.raw.tolist()
    assert ((calibrated.probability > 0) & (calibrated.probability < 1)).all()
    assert not np.allclose(calibrated.probability, plain.raw, atol=1e-3)
    about = {"calibration": asdict(found) | {"thresholds": [list(t) for t in found.thresholds]}}
    vqa = vlm.VQA(model, about)
    assert vqa.calibration == found
    choices = table["choices"][1].as_py() if "choices" in name else None
    answer = vqa.answer(table["image"][1].as_py(), table["question"][1].as_py(), choices=choices)
    assert answer.text == calibrated.answers[1]
    assert answer.probability == pytest.approx(calibrated.probability[1], abs=1e-5)


def test_other_written_answers_share_what_the_best_leaves() -> None:
    """The map, which is fitted on best answers, favours longer texts here."""
    logs = [math.log(0.5), math.log(0.3), math.log(0.1)]
    found = _of_texts(
        Calibration("length", 0.5, 0.0, 0.1), ["red", "a large red square", "a"], logs
    )
    first, second, third = (p for _, p in found)
    assert first == pytest.approx(0.488, abs=1e-3)
    assert first >= second == pytest.approx((1 - first) * 0.6)
    assert third == pytest.approx((1 - first) * 0.2)


def test_others_have_little_left_where_the_best_is_rounded_to_certain() -> None:
    known, texts = Calibration("length", 0.5, 3.0, -0.05), ["yes", "no", "maybe"]
    for sure in (0.0, -6e-8):
        first, *others = (p for _, p in _of_texts(known, texts, [sure, -17.5, -19.0]))
        assert sum(others) <= 1 - first + 1e-9
