"""Training, testing and asking models with region features on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, rest_slow
from PIL import Image
from region_miniature import COLOR_NAMES, DIM, detect, tsv_line, write_npz
from vqa_miniature import color_of, write_mscoco

import vlm
from vlm.checkpoint.checkpoint import read_checkpoint
from vlm.cli.main import main
from vlm.cli.training_cli import VQACLI
from vlm.core.features import Features

COLOR_OF = {(255, 0, 0): "red", (0, 255, 0): "green", (0, 0, 255): "blue"}
FUSIONS = {
    "GlimpseAttention": ["--model.fusion.init_args.merge.class_path=vlm.fusion.Product"],
    "BAN": ["--model.fusion.init_args.out_dim=16"],
    "MCAN": ["--model.fusion.init_args.dim=16", "--model.fusion.init_args.num_layers=1"],
    "MuRel": ["--model.fusion.init_args.out_dim=16", "--model.fusion.init_args.steps=1"],
}


@pytest.fixture(scope="module")
def regions(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .npz file for each image of the small data set: 2 to 6 regions, one with its colour."""
    folder = tmp_path_factory.mktemp("regions")
    for number, path in enumerate(sorted(data.glob("*/images/*.png"))):
        with Image.open(path) as image:
            color = COLOR_OF[image.getpixel((0, 0))]
        place = path.relative_to(data).with_suffix(".npz")
        write_npz(folder / place, *detect(number, color))
    return folder


def arguments(data: Path, regions: Path, folder: Path, fusion: str = "BAN") -> list[str]:
    return [
        "fit",
        f"-c={ROOT / 'configs/easy_vqa.yaml'}",
        f"--dataset.root={data}",
        f"--data.images.regions={regions}",
        "--data.images_per_batch=3",
        "--dataset.validation_share=0.25",
        f"--model.image_encoder={ROOT / 'configs/image/regions.yaml'}",
        f"--model.image_encoder.init_args.dim={DIM}",
        f"--model.fusion=vlm.fusion.{fusion}",
        *FUSIONS[fusion],
        f"--run.folder={folder}",
        "--trainer.max_epochs=1",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
    ]


@pytest.mark.parametrize("fusion", rest_slow(FUSIONS, "MCAN"))
def test_a_published_model_trains_for_an_epoch(
    fusion: str, data: Path, regions: Path, tmp_path: Path
) -> None:
    cache = ["--data.images.in_memory=false"] if fusion == "BAN" else []
    workers = ["--data.workers=2"] if fusion == "BAN" else []
    cli = VQACLI([*arguments(data, regions, tmp_path, fusion), *cache, *workers])
    assert type(cli.model.model.fusion).__name__ == fusion
    assert cli.trainer.global_step == 3
    assert torch.isfinite(cli.trainer.callback_metrics["test_loss"])
    assert json.loads((cli.run_folder / "test.json").read_text())["results"][0]["questions"] == 36


@pytest.fixture(scope="module")
def trained(data: Path, regions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = ["--trainer.max_epochs=15", "--model.optimizer.init_args.lr=0.01"]
    folder = tmp_path_factory.mktemp("runs")
    return VQACLI([*arguments(data, regions, folder, "GlimpseAttention"), *options]).run_folder


def test_it_learns_what_the_regions_show(trained: Path, data: Path, regions: Path) -> None:
    """The model answers from the regions alone; no image is read."""
    answers = [
        vlm.load(trained).answer(path, "what color is it?").text
        for path in sorted(regions.glob("train/images/*.npz"))
    ]
    shown = []
    for path in sorted(data.glob("train/images/*.png")):
        with Image.open(path) as image:
            shown.append(COLOR_OF[image.getpixel((0, 0))])
    assert np.mean(np.array(answers) == shown) >= 0.75
    assert set(answers) <= set(COLOR_NAMES)


def test_the_checkpoint_names_no_files(trained: Path) -> None:
    encoder = read_checkpoint(trained).model["image_encoder"]
    assert encoder == {
        "class_path": "vlm.image.RegionFeatures",
        "init_args": {"dim": DIM, "positions": "sine"},
    }


def test_asking_takes_the_features_and_says_so(
    trained: Path, data: Path, regions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, features = (folder / "test/images/0" for folder in (data, regions))
    main(["ask", str(trained), f"{features}.npz", "what color is it?"])
    assert "%" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"0\.png: this model reads region features.*\.npz"):
        main(["ask", str(trained), f"{picture}.png", "what color is it?"])


def test_several_questions_at_once_change_no_answer(trained: Path, regions: Path) -> None:
    vqa = vlm.load(trained)
    files = sorted(regions.glob("test/images/*.npz"))[:4]
    questions = ["what color is it?", "is it red?", "is the image not blue?", "what?"]
    for file, question, answer in zip(files, questions, vqa.answer(files, questions), strict=True):
        alone = vqa.answer(file, question)
        assert alone.text == answer.text
        assert alone.probability == pytest.approx(answer.probability, abs=1e-5)


def failed(capsys: pytest.CaptureFixture[str], given: list[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        main(given)
    assert caught.value.code == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def test_model_and_data_that_do_not_agree(
    data: Path, regions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments(data, regions, tmp_path)
    without = [option for option in given if not option.startswith("--data.images.regions")]
    assert "data.images.regions names none" in failed(capsys, without)
    pictures = [option for option in given if "image_encoder" not in option]
    assert "the image encoder reads images" in failed(capsys, pictures)
    wide = [*given, "--model.image_encoder.init_args.dim=2048"]
    assert "features 13 wide; expected 2048" in failed(capsys, wide)


def test_a_missing_image_ends_it_before_the_training(
    data: Path, regions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in regions.glob("train/images/*.npz"):
        features = np.load(file)
        write_npz(tmp_path / "own/train/images" / file.name, features["x"], features["bbox"])
    (tmp_path / "own/train/images/3.npz").unlink()
    said = failed(capsys, arguments(data, tmp_path / "own", tmp_path))
    assert "no features for 1 of 9 images" in said or "for 1 of 3 images" in said
    assert "3.png: no features in" in said
    write_npz(tmp_path / "own/train/images/3.npz", *(np.full((2, n), np.nan) for n in (DIM, 4)))
    said = failed(capsys, [*arguments(data, tmp_path / "own", tmp_path), "--data.workers=1"])
    assert "3.npz: features: NaN or infinite in 2 of the 2 regions" in said
    assert "Question '" in said


@pytest.mark.parametrize("control", ["question_only", "image_shuffled"])
def test_controls_take_the_regions_away(
    control: Any, data: Path, regions: Path, tmp_path: Path
) -> None:
    cli = VQACLI([*arguments(data, regions, tmp_path), f"--data.control={control}"])
    batch = next(iter(cli.datamodule.train_dataloader()))
    assert isinstance(batch.images, Features)
    assert bool(batch.images.tokens.any()) is (control == "image_shuffled")


def test_vqa_v2_from_a_tsv_without_a_photo(tmp_path: Path) -> None:
    """VQA v2 trains on a TSV of regions as in the literature, at a smaller size."""
    root = write_mscoco(tmp_path / "vqa")
    ids = set()
    for path in root.glob("*_questions.json"):
        ids |= {record["image_id"] for record in json.loads(path.read_text())["questions"]}
    lines = [tsv_line(image, *detect(image, color_of(image))) for image in sorted(ids)]
    (tmp_path / "trainval.tsv").write_bytes(b"".join(lines))
    given = arguments(root, tmp_path / "trainval.tsv", tmp_path, "MCAN")
    given += [
        f"--dataset={ROOT / 'configs/datasets/vqa_v2.yaml'}",
        f"--dataset.root={root}",
        f"--data.images.regions=[{tmp_path / 'trainval.tsv'}]",
        "--data.images_per_batch=3",
        "--data.workers=0",
        "--dataset.vocabulary.min_answer_count=2",
        "--run.test=false",
    ]
    with pytest.warns(UserWarning, match="Get the file again, unless it was shortened"):
        cli = VQACLI(given)
    assert cli.trainer.global_step == 3
    assert 0 <= cli.trainer.callback_metrics["val_accuracy"] <= 1


def test_check_data_reads_the_regions(
    data: Path, regions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [option for option in arguments(data, regions, tmp_path)[1:] if "model" not in option]
    given = [str(ROOT / "configs/easy_vqa.yaml"), *given[1:]]
    with pytest.raises(SystemExit) as caught:
        main(["check-data", *given])
    assert caught.value.code == 0
    (tmp_path / "none").mkdir()
    with pytest.raises(SystemExit) as caught:
        main(["check-data", *given, f"--data.images.regions={tmp_path / 'none'}"])
    assert caught.value.code == 1
    assert "0.png: no features in" in capsys.readouterr().out.replace("\n", "")
