"""What `vlm forgetting` refuses, with its error messages."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import timm
import torch
from conftest import write_data
from forgetting_runs import FROZEN, PRETRAINED, VIT, changed, fails, fit, write_weights
from safetensors.torch import save_file

from vlm.checkpoint.file import SUM_SUFFIX, write_checkpoint


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def runs(data: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    kinds: dict[str, list[str]] = {"frozen": FROZEN, "full": []}
    return {name: fit(data, weights, folder / name, *more) for name, more in kinds.items()}


def test_nothing_was_pretrained(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "neither encoder was given pretrained weights" in fails(capsys, run)


def test_weights_that_are_not_to_be_had(
    runs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    gone = changed(runs["full"], tmp_path / "gone", **{PRETRAINED: str(tmp_path / "w.pt")})
    assert "w.pt: there is no such file or folder" in fails(capsys, gone)
    missing = changed(runs["full"], tmp_path / "x", **{PRETRAINED: "package:no-such-weights"})
    assert "the package is not installed" in fails(capsys, missing)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    args = {"model__image_encoder__init_args__model_args": None}
    hub = changed(runs["full"], tmp_path / "hub", **{PRETRAINED: True}, **args)
    assert "HF_HUB_OFFLINE is set" in fails(capsys, hub)


def test_weights_of_another_architecture(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = timm.create_model("vit_tiny_patch16_224", **VIT | {"depth": 3})
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    path = changed(runs["full"], tmp_path, **{PRETRAINED: str(tmp_path / "other.safetensors")})
    assert "its weights do not fit the model" in fails(capsys, path)


def test_a_checkpoint_without_its_run(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = (runs["full"] / "checkpoints/best.ckpt").resolve()
    alone = tmp_path / "alone.ckpt"
    shutil.copy(best, alone)
    shutil.copy(best.with_name(best.name + SUM_SUFFIX), tmp_path)
    assert "there is no config.yaml of its run" in fails(capsys, alone)
    other = changed(runs["full"], tmp_path, model__image_encoder__init_args__name="resnet18")
    assert "is of another model than" in fails(capsys, other)
    (other / "config.yaml").write_text("model: [")
    assert "cannot be read as the configuration of a run" in fails(capsys, other)
    assert "no checkpoints/best.ckpt" in fails(capsys, tmp_path)


@pytest.mark.slow
def test_runs_that_cannot_be_compared(
    runs: dict[str, Path], weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = runs["frozen"]
    shutil.copy(weights / "vit.safetensors", tmp_path / "copy.safetensors")
    elsewhere = {PRETRAINED: str(tmp_path / "copy.safetensors")}
    other = changed(runs["full"], tmp_path / "elsewhere", **elsewhere)
    found = fails(capsys, one, other, "--no-accuracy")
    assert "expected runs that fine-tuned the same encoders" in found
    squash = {"model__image_encoder__init_args__fit": "squash"}
    other = changed(runs["full"], tmp_path / "squash", **squash)
    shutil.rmtree(other / "checkpoints")
    content = torch.load(runs["full"] / "checkpoints/best.ckpt", weights_only=True)
    content["vlm"]["model"]["image_encoder"]["init_args"]["fit"] = "squash"
    write_checkpoint(content, other / "checkpoints/best.ckpt")
    found = fails(capsys, one, other, "--no-accuracy")
    assert "has another architecture or other arguments than that of" in found
    held_out = changed(runs["full"], tmp_path / "seed", dataset__init_args__seed=5)
    assert "was asked other questions than" in fails(capsys, one, held_out)
    twice = [f"same={runs['full']}", f"same={one}"]
    assert "two are called same" in fails(capsys, *twice, code=2)


def test_photos_that_are_missing(
    runs: dict[str, Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = fails(capsys, runs["full"], "--photos", tmp_path / "nowhere")
    assert "nowhere is no folder" in found
    few = write_data(tmp_path / "few", images=3)
    found = fails(capsys, runs["full"], f"--dataset.root={few}")
    assert "--photos: got 3 images of the test split of EasyVQA; expected 8 or more" in found
    broken = tmp_path / "broken"
    shutil.copytree(data / "test/images", broken)
    (broken / "7.png").write_bytes(b"no image")
    assert "7.png: not a readable image" in fails(capsys, runs["full"], "--photos", broken)


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--interpolate=1.5", "--interpolate: got 1.5"),
        ("--batch-size=7", "--batch-size: got 7"),
        ("--neighbours=0", "--neighbours: got 0"),
        ("--max-photos=3", "--max-photos: got 3"),
        ("--photo=x", "unknown: --photo=x"),
    ],
)
def test_a_wrong_command(option: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in fails(capsys, "run", option, code=2)


def test_a_probe_that_does_not_fit(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({"weight": torch.ones(5, 7), "bias": torch.ones(5)}, tmp_path / "p.safetensors")
    found = fails(capsys, runs["full"], "--probe", tmp_path / "p.safetensors")
    assert "features 7 wide; TimmEncoder gives 24" in found
    found = fails(capsys, runs["full"], "--neighbours=5000")
    assert "--neighbours: got 5000, and the encoder has" in found
