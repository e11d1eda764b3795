"""`vlm shard` writes shards, and a run trains on them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import ROOT, small_run, write_data

from vlm.cli.main import main
from vlm.cli.training_cli import VQACLI
from vlm.data.images.sources import ImageOptions
from vlm.data.shards.source import Shards

CONFIG = str(ROOT / "configs/easy_vqa.yaml")


def predictions(run: Path) -> list[dict]:
    (file,) = run.rglob("test_predictions.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def sharded(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with questions and shards but no image files."""
    folder = tmp_path_factory.mktemp("sharded")
    main(["shard", CONFIG, str(folder / "shards"), "--shard-mb", "1", f"--dataset.root={data}"])
    for split in ("train", "test"):
        (folder / split).mkdir()
        shutil.copy(data / split / "questions.json", folder / split)
    return folder


@pytest.mark.slow
def test_a_training_from_shards_is_that_from_files(
    sharded: Path, run: Path, tmp_path: Path
) -> None:
    """Local shards are read at random, so a run gives the same order, answers and scores."""
    options = [
        f"--data.images.shards.path={sharded / 'shards'}",
        "--data.images.in_memory=false",
    ]
    found = VQACLI([*small_run(sharded, tmp_path), *options, "--data.workers=1"]).run_folder
    ours, theirs = predictions(found), predictions(run)
    assert len(ours) == len(theirs) == 36
    for one, other in zip(ours, theirs, strict=True):
        for name in ("id", "answer", "score"):
            assert one[name] == other[name]
        assert one["probability"] == pytest.approx(other["probability"], abs=1e-4)


def test_check_data_reads_the_shards(
    sharded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = tmp_path / "shards"
    shutil.copytree(sharded / "shards", shards)
    command = [
        "check-data",
        CONFIG,
        f"--dataset.root={sharded}",
        f"--data.images.shards.path={shards}",
    ]
    command += [f"--output={tmp_path}"]
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 0, capsys.readouterr().out
    (sharded / "train/questions.json").rename(tmp_path / "questions.json")
    (sharded / "train/questions.json").write_text(
        json.dumps([["what?", "red", 77], ["what?", "red", 0]])
    )
    try:
        with pytest.raises(SystemExit) as ended:
            main(command)
    finally:
        (tmp_path / "questions.json").replace(sharded / "train/questions.json")
    assert ended.value.code == 1
    said = capsys.readouterr().out
    assert "77.png: not among the 24 images of" in said
    shutil.rmtree(shards)
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 1
    assert (
        "expected a folder of shards that `vlm shard` wrote to the end" in capsys.readouterr().out
    )


def test_what_was_written_is_said(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for written in (24, 0):
        main(["shard", CONFIG, str(tmp_path / "s"), f"--dataset.root={data}"])
        wanted = f"{written} images written; there are now 24 in 1 shard, 0.0 MB."
        assert wanted in capsys.readouterr().out


def test_mistakes_end_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: Path
) -> None:
    copy = tmp_path / "copy"
    write_data(copy)
    (copy / "test/images/3.png").unlink()
    with pytest.raises(SystemExit, match=r"^vlm shard: .*test/images/3\.png: No such file"):
        main(["shard", CONFIG, str(tmp_path / "s"), f"--dataset.root={copy}"])
    with pytest.raises(SystemExit) as ended:
        main(["shard", CONFIG, str(tmp_path / "s"), "--dataset.rot=x"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("vlm shard (")
    with pytest.raises(SystemExit):
        main(["shard", CONFIG, str(tmp_path / "s"), "--shard-mb=0", f"--dataset.root={data}"])
    assert "--shard-mb: got 0" in capsys.readouterr().err


def test_images_and_regions_are_not_both() -> None:
    with pytest.raises(ValueError, match=r"images\.regions and images\.shards: got both"):
        ImageOptions(shards=Shards("x"), regions="y")
