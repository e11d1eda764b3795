"""Choices from the file to the batch, and the errors for bad choices."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from custom_files import CONFIG, small, write_photos, write_rows

from vlm.cli.main import main
from vlm.data import VQADataModule
from vlm.data.batches import VQADataset
from vlm.data.check.check import check_data
from vlm.data.sampler import BatchRows
from vlm.datasets import CustomDataset, EasyVQA
from vlm.datasets.baselines import compute_floors
from vlm.datasets.errors import DataError
from vlm.datasets.table import question_table
from vlm.heads.multiple_choice import annotator_shares
from vlm.image.transform import ImageTransform
from vlm.processor import Processor
from vlm.text import WordTokenizer

CHOOSE = f"--model.head={ROOT / 'configs/head/multiple_choice.yaml'}"


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, Any]]:
    """Rows for 20 questions about 10 images, each with two to four choices."""
    rows = write_photos(tmp_path, images=10)
    for number, row in enumerate(rows):
        colors = ["red", "green", "blue", "mauve"][: 3 + number % 4 // 2]
        row["choices"] = ["yes", "no"] if row["answer"] in ("yes", "no") else colors
    return rows


def own(folder: Path, rows: list[dict[str, Any]]) -> CustomDataset:
    return CustomDataset(str(write_rows(folder / "my.jsonl", rows)), images=folder / "photos")


def test_the_batch_has_the_file_s_choices(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    table = own(tmp_path, rows).table("train")
    words = WordTokenizer(["red", "green", "no"])
    processor = Processor(ImageTransform((3, 5)), words, annotator_shares, takes_choices=True)
    batch = VQADataset(table, processor)[BatchRows(np.array([2, 1, 0]), 3)]
    wanted = [table["choices"][row].as_py() for row in (2, 1, 0)]
    assert batch.choices is not None
    assert batch.choices.texts == wanted
    answers = [table["answers"][row].as_py()[0] for row in (2, 1, 0)]
    right = [texts.index(answer) for texts, answer in zip(wanted, answers, strict=True)]
    assert batch.targets.argmax(1).tolist() == right
    assert batch.targets.sum(1).tolist() == [1, 1, 1]
    assert batch.choices.mask.sum(1).tolist() == [len(texts) for texts in wanted]
    assert batch.choices.words.shape[1] == 1
    # Heads without choices do not even read the column.
    plain = processor._replace(takes_choices=False, encode_targets=lambda a, c: torch.empty(0))
    assert VQADataset(table, plain)[BatchRows(np.array([2]), 1)].choices is None


def test_words_of_choices_are_known_if_they_are_read(
    rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    data = own(tmp_path, rows)
    assert not {"mauve", "yes"} & set(data.words)
    assert {"mauve", "yes", "what", "red"} <= set(data.words_with_choices)


def test_easy_vqa_offers_its_thirteen_answers(data: Path) -> None:
    table = EasyVQA(root=data).table("test")
    choices = table["choices"][0].as_py()
    assert len(choices) == 13
    assert choices == sorted(choices)
    assert table["choices"].to_pylist() == [choices] * len(table)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (["red"], r"got the choices \['red'\]; expected at least two"),
        (["red", "green", "red"], "got the choice 'red' twice"),
        (["red", " "], "in which a choice is empty"),
        ("red", "got 'red'; expected a list of choices"),
        (["red", ["green"]], "got the choice|expected a text"),
    ],
)
def test_a_wrong_list_names_file_and_line(
    rows: list[dict[str, Any]], tmp_path: Path, choices: Any, message: str
) -> None:
    rows[4]["choices"] = choices
    where = r"my\.jsonl, line 5, column 'choices' \(id '5'\): "
    with pytest.raises(DataError, match=f"{where}.*{message}"):
        own(tmp_path, rows).table("train")


def test_any_reader_s_choices_are_checked() -> None:
    row = {"id": "q7", "image": "a.png", "question": "what?", "answers": ["a"]}
    for choices, message in (([""], "empty choice"), (["a"], "at least two"), ([1, 2], "texts")):
        with pytest.raises(DataError, match=f"some file, question 1 .*id 'q7'.*{message}"):
            question_table([row | {"choices": choices}], "some file")


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 1
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vlm")]
    assert len(said) == 1
    return said[0]


Change = Callable[[list[dict[str, Any]]], None]


def no_choices(rows: list[dict[str, Any]]) -> None:
    del rows[6]["choices"], rows[8]["choices"]


def another_answer(rows: list[dict[str, Any]]) -> None:
    rows[6]["answer"] = "Red"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_choices, r"there are no choices, and the model's head picks from them"),
        (
            another_answer,
            r"got the answer 'Red' and the choices 'red', .*among them, to the letter",
        ),
    ],
)
def test_a_training_that_could_not_choose_does_not_begin(
    change: Change,
    message: str,
    rows: list[dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(rows)
    my = write_rows(tmp_path / "my.jsonl", rows)
    held_out = write_photos(tmp_path, images=2, seed=1)
    for row in held_out:
        row["choices"] = (
            ["yes", "no"] if row["answer"] in ("yes", "no") else ["red", "green", "blue"]
        )
    more = [
        f"--dataset.{s}={write_rows(tmp_path / f'{s}.jsonl', held_out)}" for s in ("validation",)
    ]
    options = small(tmp_path, my, *more, "--run.test=false", "--data.images.in_memory=false")
    said = fails(["fit", "-c", CONFIG, *options, CHOOSE], capsys)
    assert re.search(rf"my\.jsonl, line 7, column 'choices' \(id '7'\): {message}", said), said
    assert "vlm.heads.Classification" in said
    if change is no_choices:
        assert "The same holds for 1 more of 20." in said
    # Other heads do not read the choices.
    main(["fit", "-c", CONFIG, *options, "--trainer.fast_dev_run=1"])


@pytest.mark.slow
def test_check_data_knows_what_the_head_needs(
    rows: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*more: str) -> tuple[int, str]:
        my = write_rows(tmp_path / "my.jsonl", rows)
        with pytest.raises(SystemExit) as stopped:
            main(["check-data", CONFIG, *small(tmp_path, my, *more)])
        return stopped.value.code, capsys.readouterr().out

    code, said = run(CHOOSE)
    assert code == 0, said
    assert "ceiling %" in said
    no_choices(rows)
    rows[10]["answer"] = "Red"
    code, said = run(CHOOSE)
    assert code == 1
    assert "error: no choices (2)" in said
    assert "error: answer not among the choices (1)" in said
    assert "line 7, column 'choices' (id '7'): there are no choices" in said
    assert "got the answer 'Red' and the choices 'red'," in said
    assert run()[0] == 0, "a classifier reads no choices"
    rows[3]["choices"] = ["yes"]
    code, said = run()
    assert code == 1
    assert "error: wrong choices (1)" in said
    assert (
        "line 4, column 'choices' (id '4'): got the choices ['yes']; expected at least two" in said
    )


def test_check_data_counts_what_it_does_not_list(
    rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    for row in rows:
        del row["choices"]
    found = check_data(VQADataModule(own(tmp_path, rows)), limit=3, images=False, kind="choices")
    assert found.errors.counts["no choices"] == 20
    assert len(found.errors.kept["no choices"]) == 3
    assert found.vocabulary is None


def test_floors_of_picking() -> None:
    """The prior floors pick the most frequent answer among the choices."""
    train = [("what?", "a"), ("what?", "a"), ("what?", "b"), ("who?", "c"), ("who?", "c")] * 2
    train += [("who?", "a")]
    test = [
        ("what?", ["b"], ["c", "b"]),  # overall c (4) before b (2); for "what?" b
        ("who?", ["a"], ["a", "c"]),  # overall a (5); for "who?" c
        ("why?", ["d"], ["d", "e"]),  # never seen: the first choice
    ]
    tables = [
        question_table(
            ({"id": str(i), "image": "x", "question": q, "answers": [a]} for i, (q, a) in
             enumerate(train)), "train",
        ),
        question_table(
            ({"id": str(i), "image": "x", "question": q, "answers": a, "choices": c}
             for i, (q, a, c) in enumerate(test)), "test",
        ),
    ]  # fmt: skip
    floors = compute_floors(EasyVQA(), *tables, None, choose=True)
    assert list(floors.majority) == [0, 1, 1]
    assert list(floors.question_only) == [1, 0, 1]
    assert list(floors.ceiling) == [1, 1, 1]
    free = compute_floors(EasyVQA(), *tables, None)
    assert list(free.majority) == [0, 1, 0]
    assert list(free.ceiling) == [1, 1, 1], "free text can say what the annotators said"
