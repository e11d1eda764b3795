"""Training, testing, predicting and asking with custom data on the command line."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from custom_files import CONFIG, small, write_photos, write_rows

import vlm
from vlm.cli.main import main
from vlm.datasets import CustomDataset


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Returns the one-line error of a run that fails because of its data."""
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    said = [line for line in error.splitlines() if line.startswith("vlm")]
    assert len(said) == 1, error
    return said[0]


def only(folder: Path, pattern: str) -> Path:
    found = list((folder / "runs/own_data").glob(pattern))
    assert len(found) == 1, found
    return found[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos, my.jsonl and a finished run."""
    folder = tmp_path_factory.mktemp("own")
    my = write_rows(folder / "my.jsonl", write_photos(folder, images=40))
    main(["fit", "-c", CONFIG, *small(folder, my, "--trainer.max_epochs=20")])
    return folder


def test_one_file_is_split_trained_and_tested(trained: Path) -> None:
    run = only(trained, "*/checkpoints").parent
    overall, *_ = json.loads((run / "test.json").read_text())["results"]
    assert overall["questions"] == 8, "a tenth of 40 images, two questions each"
    assert overall["accuracy"] > overall["question_only"], "it looks at the images"
    lines = (run / "test_predictions.jsonl").read_text().splitlines()
    tested = {json.loads(line)["image"] for line in lines}
    data = CustomDataset(str(trained / "my.jsonl"), images=trained / "photos")
    parts = [set(data.table(s)["image"].to_pylist()) for s in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [32, 4, 4]
    assert len(set.union(*parts)) == 40
    assert tested == parts[2]
    model = vlm.load(run)
    asked = {json.loads(line)["image"]: json.loads(line) for line in lines}
    for image, line in asked.items():
        assert model.answer(image, line["question"]).text == line["answer"]


def test_the_test_part_is_the_same_for_every_seed(trained: Path) -> None:
    def parts(seed: int) -> list[list[str]]:
        data = CustomDataset(str(trained / "my.jsonl"), seed=seed)
        return [data.table(s)["id"].to_pylist() for s in ("test", "validation")]

    assert parts(0)[0] == parts(1)[0]
    assert parts(0)[1] != parts(1)[1]


def test_a_test_file_without_answers(
    trained: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = only(trained, "*/checkpoints").parent
    rows = write_photos(trained, images=3, seed=1)
    new = [{"image": row["image"], "question": row["question"], "id": f"new {i}"}
           for i, row in enumerate(rows)]  # fmt: skip
    file = write_rows(trained / "new.jsonl", new)
    again = ["-c", str(run / "config.yaml"), f"--ckpt_path={run / 'checkpoints/best.ckpt'}"]
    again += [f"--dataset.test={file}", f"--run.folder={tmp_path}"]
    said = fails(["test", *again], capsys)
    assert "6 of the 6 test questions without answers" in said
    assert "`vlm predict` writes" in said
    main(["predict", *again])
    written = next(tmp_path.rglob("predictions.jsonl")).read_text().splitlines()
    answered = [json.loads(line) for line in written]
    assert [row["id"] for row in answered] == [row["id"] for row in new]
    right = [row["answer"] == true["answer"] for row, true in zip(answered, rows, strict=True)]
    assert sum(right) >= 4, "as well as on the images it was trained with"


def test_fit_says_before_training_that_it_could_not_test(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write_photos(tmp_path, images=6)
    my, held_out = (write_rows(tmp_path / f"{n}.jsonl", rows[i::2]) for i, n in enumerate("ab"))
    said = fails(
        ["fit", "-c", CONFIG, *small(tmp_path, my, f"--dataset.validation={held_out}")], capsys
    )
    assert "CustomDataset has no test split" in said
    assert not list(tmp_path.rglob("metrics.csv"))


def test_ten_answers_as_in_vqa_v2_are_softly_scored(tmp_path: Path) -> None:
    """The best answer is shared by two of ten annotators, which scores 0.6 by the official rule."""
    rows: list[dict[str, Any]] = write_photos(tmp_path, images=12)
    for row in rows:
        others = [f"other {i}" for i in range(8)]
        given = [row["answer"]] * 2 + others
        row["answers"] = [
            {"answer": a, "answer_confidence": "maybe", "answer_id": i} for i, a in enumerate(given)
        ]
    my = write_rows(tmp_path / "my.jsonl", rows)
    options = ["--dataset.vocabulary.max_answers=4", "--trainer.max_epochs=3"]
    main(["fit", "-c", CONFIG, *small(tmp_path, my, *options)])
    overall, *_ = json.loads(only(tmp_path, "*/test.json").read_text())["results"]
    assert overall["ceiling"] == pytest.approx(0.6)
    assert overall["accuracy"] in [pytest.approx(x / 20) for x in range(13)]


def test_scripts_of_the_world_are_trained_with(tmp_path: Path) -> None:
    """Questions and answers may contain emoji, right-to-left Hebrew and Chinese."""
    rows = write_photos(tmp_path, images=12)
    texts = [("这是什么颜色?", "红色"), ("מה הצבע?", "אדום"), ("🟥?", "🟥 yes"), ("🐈🐈🐈", "🐈")]
    for number, row in enumerate(rows):
        row["question"], row["answer"] = texts[number % 4]
    my = write_rows(tmp_path / "my.jsonl", rows)
    main(["fit", "-c", CONFIG, *small(tmp_path, my, "--trainer.max_epochs=2")])
    lines = only(tmp_path, "*/test_predictions.jsonl").read_text("utf-8").splitlines()
    assert {json.loads(line)["question"] for line in lines} <= {q for q, _ in texts}
    assert {json.loads(line)["answer"] for line in lines} <= {a for _, a in texts}
    assert any(a in line for line in lines for _, a in texts), "as they are, not escaped"


def test_images_inside_a_parquet_file_reach_loader_workers(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = write_photos(tmp_path, images=12)
    for row in rows:
        row["image"] = (tmp_path / "photos" / row["image"]).read_bytes()
    table = pa.table({name: [row[name] for row in rows] for name in rows[0]})
    pq.write_table(table, tmp_path / "my.parquet")
    options = ["--data.images.in_memory=false", "--data.workers=1", "--trainer.max_epochs=2"]
    main(["fit", "-c", CONFIG, *small(tmp_path, tmp_path / "my.parquet", *options)])
    assert only(tmp_path, "*/test.json").is_file()


def test_a_mistake_ends_the_run_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write_photos(tmp_path, images=4)
    rows[5]["question"] = " "
    my = write_rows(tmp_path / "my.jsonl", rows)
    said = fails(["fit", "-c", CONFIG, *small(tmp_path, my)], capsys)
    assert re.search(r"my\.jsonl, line 6, column 'question' \(id '6'\): got the question ' '", said)
    rows[5]["question"] = "what is it?"
    cut = write_rows(my, rows).read_bytes()[:-20]
    my.write_bytes(cut)
    said = fails(["fit", "-c", CONFIG, *small(tmp_path, my)], capsys)
    assert re.search(r"my\.jsonl, line 8, byte \d+ \(column \d+\): not JSON .* cut short", said)


def test_images_in_shards_need_no_folder(tmp_path: Path) -> None:
    """Training on shards works after the image files are deleted."""
    my = write_rows(tmp_path / "my.jsonl", write_photos(tmp_path))
    told = small(tmp_path, my, "--trainer.max_epochs=1")
    main(["shard", CONFIG, str(tmp_path / "shards"), *told[:2]])
    shutil.rmtree(tmp_path / "photos")
    main(["fit", "-c", CONFIG, *told, f"--data.images.shards.path={tmp_path / 'shards'}"])
    assert only(tmp_path, "*/test.json")
