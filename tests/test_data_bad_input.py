"""Training runs with broken images and malformed questions."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path

import pytest
from conftest import rows_slow, small_run, write_data

from vlm.cli.main import main
from vlm.cli.training_cli import VQACLI


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code of a failing run and its one line of error."""
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    error = capsys.readouterr().err
    assert "Traceback" not in error
    said = [line for line in error.splitlines() if line.startswith("vlm")]
    assert len(said) == 1, error
    return stopped.value.code, said[0]


def spoil(image: Path, kind: str) -> None:
    if kind == "missing":
        image.unlink()
    else:
        content = image.read_bytes()
        image.write_bytes({"truncated": content[:60], "text": b"no image", "empty": b""}[kind])


REASONS = {
    "missing": "there is no such file",
    "truncated": "not a readable image",
    "text": "not a readable image",
    "empty": "empty",
}


@pytest.mark.parametrize(
    ("kind", "loading"),
    [("missing", "by workers"), *rows_slow(product(REASONS, ("cached", "on the way")), 3)],
)
def test_a_bad_image_names_file_and_question(
    kind: str, loading: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_data(tmp_path / "data")
    spoil(data / "train/images/7.png", kind)
    arguments = [
        *small_run(data, tmp_path / "runs"),
        f"--data.images.in_memory={str(loading == 'cached').lower()}",
        f"--data.workers={2 if loading == 'by workers' else 0}",
        "--trainer.max_epochs=1",
        "--run.test=false",
    ]
    code, said = fails(arguments, capsys)
    assert code == 1
    assert str(data / "train/images/7.png") in said
    assert REASONS[kind] in said
    # Rows 21 to 23 are the three questions about image 7.
    assert re.search(r"Question 'train-2[123]'", said), said


@pytest.mark.parametrize("question", ["", "   "])
def test_an_empty_question_is_named(
    question: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_data(tmp_path / "data")
    file = data / "train/questions.json"
    rows = json.loads(file.read_text())
    rows[7][0] = question
    file.write_text(json.dumps(rows))
    code, said = fails(small_run(data, tmp_path / "runs"), capsys)
    assert code == 1
    assert f"{file}, question 8 (id 'train-7'): got the question {question!r}" in said


@pytest.mark.parametrize("content", ["[1,", '[["a question", "yes"]]', '[["what?", 3, 0]]'])
def test_a_broken_file_of_questions_is_named(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_data(tmp_path / "data")
    (data / "train/questions.json").write_text(content)
    code, said = fails(small_run(data, tmp_path / "runs"), capsys)
    assert code == 1
    assert str(data / "train/questions.json") in said


def test_a_missing_data_set_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, said = fails(small_run(tmp_path / "nosuch", tmp_path / "runs"), capsys)
    assert "nosuch/train/questions.json: there is no such file" in said
    assert "compute_fn" not in said


def test_answers_outside_the_vocabulary_are_wrong_and_not_dropped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_data(tmp_path / "data")
    file = data / "test/questions.json"
    rows = json.loads(file.read_text())
    strange = [3, 8, 22, 35]
    for number in strange:
        rows[number][1] = "mauve"
    file.write_text(json.dumps(rows))
    cli = VQACLI([*small_run(data, tmp_path / "runs"), "--trainer.max_epochs=2"])
    said = " ".join(capsys.readouterr().out.split())
    assert "4 questions without an answer in it, taken as wrong" in said
    lines = (cli.run_folder / "test_predictions.jsonl").read_text().splitlines()
    predictions = [json.loads(line) for line in lines]
    assert [row["id"] for row in predictions] == [f"test-{i}" for i in range(36)]
    assert all(predictions[number]["score"] == 0 for number in strange)
    assert "mauve" not in {row["answer"] for row in predictions}
    right = sum(row["answer"] == row["answers"][0] for row in predictions)
    assert right > 0
    overall, *types = json.loads((cli.run_folder / "test.json").read_text())["results"]
    assert overall["questions"] == 36
    assert overall["accuracy"] == pytest.approx(right / 36)
    assert overall["ceiling"] == pytest.approx(32 / 36)
    assert sum(row["questions"] for row in types) == 36
    assert cli.trainer.callback_metrics["test_accuracy"] == pytest.approx(right / 36)


@pytest.mark.parametrize("option", ["fast_dev_run", "limit_val_batches"])
def test_some_batches_of_many_are_scored_alone(option: str, data: Path, tmp_path: Path) -> None:
    """A limit of 1 scores a single batch of three questions, not 100 % of the batches."""
    cli = VQACLI(
        [
            *small_run(data, tmp_path),
            "--data.images_per_batch=1",
            f"--trainer.{option}=1",
            "--trainer.max_epochs=1",
            "--run.test=false",
        ]
    )
    assert len(cli.model.evaluation.results.scores) == 3
    assert len(cli.datamodule.table("validation")) == 9
