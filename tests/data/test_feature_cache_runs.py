"""Runs with cached features give the same numbers as runs without, from `fit` to answers."""

from __future__ import annotations

import csv
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, rest_slow, write_data
from PIL import Image
from torch import Tensor

import vlm
from vlm.cli.main import main
from vlm.cli.training_cli import VQACLI
from vlm.data.images.store import ImageStore
from vlm.image import ConvNet
from vlm.training.fault_tolerance.watchdog import Watchdog

FROZEN = "--model.tuning.image_encoder.frozen=true"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set in easy-VQA's layout with 12 images per split, all different."""
    folder = write_data(tmp_path_factory.mktemp("photos"))
    random = np.random.default_rng(7)
    for path in sorted(folder.rglob("*.png")):
        noisy = np.asarray(Image.open(path)) * 0.7 + random.integers(0, 70, (64, 64, 3))
        Image.fromarray(noisy.astype(np.uint8)).save(path)
    return folder


def fit(photos: Path, folder: Path, *more: str) -> list[str]:
    """Arguments for a small run with dropout in the fusion and a frozen encoder with batch norm."""
    return [
        "fit",
        f"--config={ROOT / 'configs/easy_vqa.yaml'}",
        f"--dataset.root={photos}",
        "--data.images_per_batch=2",
        "--dataset.validation_share=0.25",
        "--model.fusion.merge.dropout=0.3",
        f"--run.folder={folder}",
        "--trainer.max_epochs=3",
        "--trainer.log_every_n_steps=1",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        FROZEN,
        *more,
    ]


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the images encoded in this process."""
    count: Counter[str] = Counter()
    encode = ConvNet.encode

    def counting(self: ConvNet, images: torch.Tensor, mask: torch.Tensor) -> Any:
        count["images"] += len(images)
        return encode(self, images, mask)

    monkeypatch.setattr(ConvNet, "encode", counting)
    return count


def metrics(run: Path) -> list[dict[str, float]]:
    """Returns everything logged: the loss of every step, validation and test metrics."""
    with (run / "metrics.csv").open(newline="") as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


def assert_same_metrics(run: Path, other: Path) -> None:
    one, two = metrics(run), metrics(other)
    assert any("test_loss" in row for row in one)
    assert len(one) == len(two) > 15
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, rel=1e-6, abs=1e-6)


@pytest.fixture(scope="module")
def plain(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without the cache."""
    return VQACLI(fit(photos, tmp_path_factory.mktemp("plain"))).run_folder


@pytest.fixture(scope="module")
def cached(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same run with the cache, and the folder of the features."""
    folder = tmp_path_factory.mktemp("cached")
    option = f"--data.images.features={folder / 'features'}"
    return VQACLI(fit(photos, folder, option)).run_folder, folder / "features"


def test_a_run_with_the_cache_has_the_same_numbers(plain: Path, cached: tuple[Path, Path]) -> None:
    """The step losses, validation and test scores, and final weights are the same."""
    run, features = cached
    assert_same_metrics(plain, run)
    parents = {path.parent for path in features.rglob("*.safetensors")}
    assert len(parents) == 1, "train and test read the same encoder's"
    one, two = (
        torch.load(folder / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
        for folder in (plain, run)
    )
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-5, atol=1e-6)


def test_its_checkpoint_answers_images(
    plain: Path, cached: tuple[Path, Path], photos: Path
) -> None:
    """The checkpoint includes the image encoder and answers like one trained without the cache."""
    pictures = [str(photos / f"test/images/{number}.png") for number in range(4)]
    asked = ["what color is it?"] * 4
    one, two = (vlm.load(run).answer(pictures, asked) for run in (plain, cached[0]))
    assert [answer.text for answer in one] == [answer.text for answer in two]
    assert [a.probability for a in one] == pytest.approx([b.probability for b in two], abs=1e-5)


@pytest.mark.parametrize("workers", rest_slow([0, 2], 0))
def test_each_image_is_encoded_once(
    workers: int, photos: Path, plain: Path, tmp_path: Path, encoded: Counter[str]
) -> None:
    """Three epochs of 72 questions encode the 24 images once, with any number of workers."""
    more = [f"--data.images.features={tmp_path / 'f'}", f"--data.workers={workers}"]
    run = VQACLI(fit(photos, tmp_path, *more)).run_folder
    assert encoded["images"] == 24
    assert_same_metrics(plain, run)


def test_evaluation_finds_the_features(
    cached: tuple[Path, Path], tmp_path: Path, encoded: Counter[str]
) -> None:
    """Evaluation finds the features although the weights are loaded after the data are set up."""
    run, _ = cached
    told = ["test", f"-c={run / 'config.yaml'}", f"--ckpt_path={run / 'checkpoints/best.ckpt'}"]
    cli = VQACLI([*told, f"--run.folder={tmp_path}"])
    assert not encoded
    (again,) = metrics(cli.run_folder)
    (row,) = [row for row in metrics(run) if "test_loss" in row]
    for name in ("test_loss", "test_accuracy"):
        assert again[name] == pytest.approx(row[name], rel=1e-6)


@pytest.mark.slow
def test_evaluation_of_other_weights_makes_their_own(
    plain: Path, photos: Path, cached: tuple[Path, Path], tmp_path: Path, encoded: Counter[str]
) -> None:
    """A trained encoder gets its own features beside those of the frozen encoder."""
    features = shutil.copytree(cached[1], tmp_path / "features")
    arguments = [a for a in fit(photos, tmp_path, "--run.test=false") if a != FROZEN]
    run = VQACLI(arguments).run_folder
    told = ["test", f"-c={run / 'config.yaml'}", f"--ckpt_path={run / 'checkpoints/best.ckpt'}"]
    one = VQACLI([*told, f"--run.folder={tmp_path / 'one'}"]).run_folder
    encoded.clear()
    two = VQACLI([*told, f"--run.folder={tmp_path / 'two'}", f"--data.images.features={features}"])
    assert encoded["images"] == 12
    assert len({path.parent for path in features.rglob("*.safetensors")}) == 2
    for a, b in zip(metrics(one), metrics(two.run_folder), strict=True):
        assert a == pytest.approx(b, rel=1e-6)


@pytest.mark.slow
def test_resnets_of_timm_too(photos: Path, tmp_path: Path) -> None:
    """Features are found again even though timm's constructor makes the model name more exact."""
    encoder = ["--model.image_encoder=TimmEncoder", "--model.image_encoder.name=resnet10t"]
    size = ["--model.image_encoder.image_size=64", "--trainer.max_epochs=1"]
    more = [f"--data.images.features={tmp_path / 'features'}", *encoder, *size]
    run = VQACLI(fit(photos, tmp_path / "runs", *more)).run_folder
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    told = ["test", f"-c={run / 'config.yaml'}", f"--ckpt_path={run / 'checkpoints/best.ckpt'}"]
    VQACLI([*told, f"--run.folder={tmp_path / 'again'}"])
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}


def test_of_the_control_without_images_one_blank_is_encoded(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = ["--data.control=question_only", "--trainer.max_epochs=1"]
    plain = VQACLI(fit(photos, tmp_path, *told)).trainer.callback_metrics
    pictures = []
    original = ConvNet.encode

    def counted(encoder: ConvNet, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        pictures.append(len(images))
        return original(encoder, images, mask)

    monkeypatch.setattr(ConvNet, "encode", counted)
    more = f"--data.images.features={tmp_path / 'f'}"
    cached = VQACLI(fit(photos, tmp_path, *told, more)).trainer.callback_metrics
    assert set(pictures) == {1}
    assert not (tmp_path / "f").exists()
    for name, value in plain.items():
        torch.testing.assert_close(cached[name], value, rtol=0, atol=1e-6)


def failed(capsys: pytest.CaptureFixture[str], arguments: list[str], code: int) -> str:
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    said = capsys.readouterr().err
    assert exit.value.code == code, said
    return said


TWO = """
class_path: vlm.image.SideBySide
init_args:
  along: tokens
  dim: 11
  encoders:
  - {class_path: vlm.image.ConvNet, init_args: {image_size: 32, widths: [5, 7]}}
  - {class_path: vlm.image.ConvNet, init_args: {image_size: 64, widths: [3, 4, 6], dropout: 0.2}}
"""


def fit_two(photos: Path, folder: Path, tuning: str, *more: str) -> list[str]:
    (folder / "two.yaml").write_text(TWO)
    arguments = [argument for argument in fit(photos, folder, *more) if argument != FROZEN]
    return [
        *arguments,
        f"--model.image_encoder={folder / 'two.yaml'}",
        f"--model.tuning.encoders={tuning}",
    ]


@pytest.mark.slow
def test_of_two_encoders_the_frozen_one_is_cached(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other is trained on images in the same run, whose numbers are those without the cache."""
    counts: Counter[int] = Counter()
    encode = ConvNet.encode

    def counting(self: ConvNet, images: torch.Tensor, mask: torch.Tensor) -> Any:
        counts[self.dim] += len(images)
        return encode(self, images, mask)

    opened: Counter[str] = Counter()
    read = ImageStore._read

    def noting(self: ImageStore, path: str, question: str) -> Tensor:
        opened[path] += 1
        return read(self, path, question)

    monkeypatch.setattr(ConvNet, "encode", counting)
    monkeypatch.setattr(ImageStore, "_read", noting)
    runs, tuning = [], "[{frozen: true}, {lr_scale: 0.5}]"
    for name in ("plain", "cached"):
        (folder := tmp_path / name).mkdir()
        more = [f"--data.images.features={tmp_path / 'f'}"] if name == "cached" else []
        counts.clear()
        opened.clear()
        runs.append(VQACLI(fit_two(photos, folder, tuning, *more)).run_folder)
    assert_same_metrics(*runs)
    assert counts[12] == 24, "the frozen one sees each image once"
    assert counts[13] > 3 * 12, "the other in each epoch"
    assert set(opened.values()) == {1}, "its images stay in memory (`in_memory`)"
    blind = VQACLI(
        fit_two(photos, tmp_path, tuning, f"--data.images.features={tmp_path / 'f'}",
                "--data.control=question_only")
    )  # fmt: skip
    assert any("test_loss" in row for row in metrics(blind.run_folder))


def test_two_encoders_that_are_both_trained_are_refused(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    option = f"--data.images.features={tmp_path / 'f'}"
    told = fit_two(photos, tmp_path, "[{from_epoch: 1}, {}]", option)
    assert "the image encoder is trained" in failed(capsys, told, 1)


@pytest.mark.parametrize("trained", ["frozen=false", "from_epoch=2"])
def test_an_encoder_that_is_trained_is_refused(
    trained: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The cache is also refused if the encoder is trained only from a later epoch."""
    arguments = [a for a in fit(photos, tmp_path) if a != FROZEN]
    option = f"--model.tuning.image_encoder.{trained}"
    features = f"--data.images.features={tmp_path / 'f'}"
    said = failed(capsys, [*arguments, features, option], 1)
    assert "--model.tuning.image_encoder.frozen=true, or leave data.images.features out" in said
    assert not (tmp_path / "f").exists()


def cache(photos: Path, *more: str) -> list[str]:
    return ["cache", str(ROOT / "configs/easy_vqa.yaml"), f"--dataset.root={photos}", *more]


def test_the_command_fills_it_beforehand(
    photos: Path, tmp_path: Path, encoded: Counter[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """After the command fills the cache, a second call and training encode nothing."""
    option = f"--data.images.features={tmp_path / 'f'}"
    for _ in range(2):
        main(cache(photos, option))
        assert "has the features of all images of the splits (24)" in capsys.readouterr().out
    assert encoded["images"] == 24
    VQACLI(fit(photos, tmp_path, option, "--trainer.max_epochs=1"))
    assert encoded["images"] == 24
    assert not list(tmp_path.rglob("*.part"))


def test_the_command_takes_a_checkpoint_s_weights(
    cached: tuple[Path, Path], encoded: Counter[str]
) -> None:
    run, features = cached
    before = sorted(features.rglob("*"))
    main(["cache", str(run / "config.yaml"), f"--ckpt_path={run / 'checkpoints/best.ckpt'}"])
    assert not encoded
    assert sorted(features.rglob("*")) == before


def test_what_the_command_refuses(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "data.images.features: got none" in failed(capsys, cache(photos), 2)
    option = f"--data.images.features={tmp_path / 'f'}"
    assert "nosuch" in failed(capsys, cache(photos, option, "--dataset.nosuch=1"), 2)
    regions = f"--model.image_encoder={ROOT / 'configs/image/regions.yaml'}"
    with pytest.raises(SystemExit, match=r"for RegionFeatures; expected .* an encoder of images"):
        main(cache(photos, option, regions))
    broken = shutil.copytree(photos, tmp_path / "photos")
    (broken / "test/images/3.png").write_text("")
    with pytest.raises(SystemExit, match=r"vlm cache: .*3\.png: not a readable image .*empty"):
        main(cache(broken, option))


def test_a_filling_is_no_stall(photos: Path, tmp_path: Path) -> None:
    """Filling the cache resets the watchdog, just as a batch does."""
    watchdog = Watchdog(minutes=30)
    beats: list[None] = []
    watchdog._beat = lambda: beats.append(None)
    option = f"--data.images.features={tmp_path / 'f'}"
    few = "--data.images.features_batch=4"
    cli = VQACLI(fit(photos, tmp_path, option, few, "--trainer.max_epochs=1"))
    watchdog.setup(cli.trainer, cli.model, "fit")
    watchdog._done.set()
    shutil.rmtree(tmp_path / "f")
    beats.clear()
    cli.datamodule.encoded_images("train", cli.model.model.image_encoder)
    assert len(beats) >= 6


@pytest.mark.slow
def test_the_table_at_the_start_tells_the_precision_of_what_is_cached(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = [f"--data.images.features={tmp_path / 'features'}", "--trainer.precision=bf16-mixed"]
    told.append("--trainer.max_epochs=1")
    VQACLI(fit(photos, tmp_path, *told))
    said = capsys.readouterr().out
    assert re.search("image encoder .*│ 32, cached", said)
    assert re.search("fusion .*│ bf16-mixed", said)
    VQACLI(fit_two(photos, tmp_path, "[{frozen: true}, {}]", *told))
    said = capsys.readouterr().out
    assert re.search("image encoder .*│ bf16-mixed;", said)
    assert re.search("│ (32, )?cached +│", said)
