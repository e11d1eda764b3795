"""Unreadable images are an error, or are skipped and counted up to the allowed number."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import small_run, write_data
from PIL import Image

from vlm.checkpoint.checkpoint import CheckpointError
from vlm.cli.main import main
from vlm.cli.training_cli import VQACLI
from vlm.data import VQADataModule
from vlm.data.check.check import check_data
from vlm.data.images.sources import ImageOptions
from vlm.data.images.unreadable import without_unreadable
from vlm.datasets import EasyVQA
from vlm.datasets.errors import DataError
from vlm.image import ConvNet


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Data with 12 training images, one missing and one invalid, and 3 questions about each."""
    data = write_data(tmp_path / "data")
    (data / "train/images/4.png").unlink()
    (data / "train/images/7.png").write_text("no image")
    return data


def fit(data: Path, folder: Path, *options: str) -> VQACLI:
    short = ("--trainer.max_epochs=1", "--run.test=false")
    return VQACLI([*small_run(data, folder), *short, *options])


@pytest.mark.parametrize("in_memory", ["true", "false"])
def test_they_are_left_out_with_their_questions(
    broken: Path, tmp_path: Path, in_memory: str
) -> None:
    options = ("--data.images.skip_unreadable=2", f"--data.images.in_memory={in_memory}")
    with pytest.warns(UserWarning, match="as unreadable, with") as said:
        cli = fit(broken, tmp_path / "runs", *options)
    left = [str(one.message) for one in said if "Left out" in str(one.message)]
    # One may be in the part held out for validation.
    assert sum(int(message.split()[2]) for message in left) == 2
    assert any("4.png: there is no such file" in message for message in left)
    used = [id_ for split in ("train", "validation") for id_ in
            cli.datamodule.table(split)["id"].to_pylist()]  # fmt: skip
    wanted = {f"train-{n}" for n in range(36)} - {f"train-{n}" for n in (12, 13, 14, 21, 22, 23)}
    assert sorted(used) == sorted(wanted)
    assert cli.trainer.global_step > 0


def test_the_number_and_the_questions_are_said(broken: Path) -> None:
    data = EasyVQA(root=broken)
    table = data.read("train")
    assert table is not None
    wanted = (
        r"Left out 2 of 12 train images as unreadable, with 6 of 36 questions\. The "
        r"first: Question 'train-12': .*4\.png: there is no such file"
    )
    with pytest.warns(UserWarning, match=wanted):
        whole = without_unreadable(table, VQADataModule(data).open_images, "train", 2)
    assert whole.num_rows == 30
    assert not {"4.png", "7.png"} & {Path(path).name for path in whole["image"].to_pylist()}


def test_one_more_than_allowed_is_an_error(broken: Path) -> None:
    data = EasyVQA(root=broken)
    table = data.read("train")
    assert table is not None
    with pytest.raises(DataError, match=r"skip_unreadable: got 1, but more train images .*4\.png"):
        without_unreadable(table, VQADataModule(data).open_images, "train", 1)


def test_with_none_broken_the_table_stays(data: Path) -> None:
    made = EasyVQA(root=data)
    table = made.read("train")
    assert table is not None
    assert without_unreadable(table, VQADataModule(made).open_images, "train", 5) is table


def test_a_test_answers_every_question(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_data(tmp_path / "data")
    cli = fit(data, tmp_path / "runs")
    (data / "test/images/3.png").write_text("no image")
    best = cli.run_folder / "checkpoints/best.ckpt"
    with pytest.raises(SystemExit) as stopped:
        main(["test", "-c", str(cli.run_folder / "config.yaml"), f"--ckpt_path={best}",
              "--data.images.skip_unreadable=9"])  # fmt: skip
    assert stopped.value.code == 1
    assert "3.png: not a readable image" in capsys.readouterr().err


@pytest.mark.usefixtures("broken")
def test_features_are_made_of_what_is_left(tmp_path: Path) -> None:
    config = str(Path(small_run(tmp_path, tmp_path)[2]))
    options = [config, f"--dataset.root={tmp_path / 'data'}", f"--run.folder={tmp_path / 'runs'}",
               f"--data.images.features={tmp_path / 'features'}", "--dataset.validation_share=0.25",
               "--model.tuning.image_encoder.frozen=true",
               "--data.images.skip_unreadable=2"]  # fmt: skip
    with pytest.warns(UserWarning, match="Left out"):
        main(["cache", *options])
    assert json.loads(next((tmp_path / "features").rglob("encoder.json")).read_text())


def test_a_number_below_none() -> None:
    with pytest.raises(ValueError, match=r"images\.skip_unreadable: got -1; expected 0 or more"):
        ImageOptions(skip_unreadable=-1)


def test_the_default_is_an_error(broken: Path, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(broken / "train/images/4.png")
    with pytest.raises(SystemExit) as stopped:
        main([*small_run(broken, tmp_path / "runs"), "--trainer.max_epochs=1"])
    assert stopped.value.code == 1


def test_a_run_is_not_continued_with_images_that_were_left_out(
    broken: Path, tmp_path: Path
) -> None:
    """Repaired images would change the order of the questions, so the run is not continued."""
    told = "--data.images.skip_unreadable=2"
    with pytest.warns(UserWarning, match="Left out"):
        cli = fit(broken, tmp_path / "runs", told)
    last = Path(cli.run_folder) / "checkpoints/last.ckpt"
    for name in ("4.png", "7.png"):
        Image.new("RGB", (64, 64)).save(broken / "train/images" / name)
    with pytest.raises(CheckpointError, match="the training questions: "):
        fit(broken, tmp_path / "runs", told, f"--ckpt_path={last}")


def test_an_image_that_needs_a_white_level_is_read_with_it(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    for path in (data / "train/images").iterdir():
        Image.fromarray(np.full((8, 8), 4000.0, np.float32)).save(path, format="TIFF")
    module = VQADataModule(EasyVQA(root=data), images=ImageOptions(skip_unreadable=1))
    module.skip_unreadable("train", ConvNet(white_level=4095).transform)
    assert len(module.table("train")) == len(EasyVQA(root=data).table("train"))
    found = check_data(module)
    assert not found.errors.counts
    assert set(found.warnings.counts) >= {"image without a white level"}
    with pytest.raises(DataError, match="more train images than that"):
        VQADataModule(EasyVQA(root=data), images=ImageOptions(skip_unreadable=1)).skip_unreadable(
            "train", ConvNet().transform
        )
