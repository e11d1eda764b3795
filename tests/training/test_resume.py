"""A run that is interrupted and resumed is bit for bit the same as an uninterrupted one."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from conftest import rest_slow
from mishaps import Mishap
from training_runs import assert_same, callback, fit, only_run, outcome, run

from vlm.checkpoint.checkpoint import read_checkpoint
from vlm.cli.training_cli import VQACLI

EMA = callback("lightning.pytorch.callbacks.EMAWeightAveraging", decay=0.9)
AUGMENTED = [
    "--data.augment.images=[RandAugment,Erasing]",
    "--data.augment.allow=[color]",
    "--data.augment.questions=[DroppedWords,Typos]",
    "--data.augment.mirror.probability=0.5",
    "--data.augment.no_image=0.2",
    "--data.augment.no_question=0.2",
]
STAGED = [
    "--model.tuning.image_encoder.from_epoch=1",
    "--model.tuning.image_encoder.layers_per_epoch=1",
    "--model.tuning.image_encoder.layer_decay=0.5",
    "--model.tuning.text_encoder.frozen=true",
]
# Steps are 0 to 14, 5 an epoch. What ends the run, and further arguments of the run.
MISHAPS = {
    "before any checkpoint but one": ({"hook": "on_train_batch_start", "step": 3}, []),
    "in the middle of an epoch": ({"hook": "on_train_batch_start", "step": 8}, []),
    "at the start of an epoch": ({"hook": "on_train_epoch_start", "step": 5}, []),
    "in the last batch of an epoch": ({"hook": "on_before_optimizer_step", "step": 9}, []),
    "in a validation": ({"hook": "on_validation_batch_start", "step": 10}, []),
    "with workers": (
        {"hook": "on_train_batch_start", "step": 8},
        ["--data.workers=2"],
    ),
    "with augmentation": ({"hook": "on_train_batch_start", "step": 8}, AUGMENTED),
    "with augmentation and workers": (
        {"hook": "on_train_batch_start", "step": 8},
        [*AUGMENTED, "--data.workers=2"],
    ),
    "with accumulated gradients": (
        {"hook": "on_before_optimizer_step", "step": 4},
        ["--trainer.accumulate_grad_batches=2"],
    ),
    "with averaged weights": ({"hook": "on_train_batch_start", "step": 8}, EMA),
    "before layers join": ({"hook": "on_train_batch_start", "step": 3}, STAGED),
    "when the next layers have joined": ({"hook": "on_train_batch_start", "step": 13}, STAGED),
    "with averaged weights of layers that join": (
        {"hook": "on_train_batch_start", "step": 8},
        [*EMA, *STAGED],
    ),
    "with LoRA": (
        {"hook": "on_train_batch_start", "step": 8},
        ["--model.tuning.image_encoder.lora.rank=2"],
    ),
    "with two validations an epoch": (
        {"hook": "on_train_batch_start", "step": 8},
        ["--trainer.val_check_interval=2"],
    ),
    "with a number of steps instead of epochs": (
        {"hook": "on_train_batch_start", "step": 6},
        ["--trainer.max_steps=12"],
    ),
}


@pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback")
@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.parametrize(
    "name",
    rest_slow(
        MISHAPS,
        "in the middle of an epoch",
        "with augmentation and workers",
    ),
)
def test_a_continued_run_comes_to_the_same(name: str, data: Path, tmp_path: Path) -> None:
    mishap, told = MISHAPS[name]
    whole = VQACLI(fit(data, tmp_path / "whole", *told)).run_folder
    told = ["--run.checkpoint_steps=2", "--run.resume=auto", *told]
    with pytest.raises(Mishap):
        VQACLI(fit(data, tmp_path, *told, *callback("Strike", what="raise", **mishap)))
    (folder,) = (path.parents[1] for path in tmp_path.glob("easy_vqa/*/checkpoints/last.ckpt"))
    told.remove("--run.resume=auto")
    again = VQACLI(fit(data, tmp_path, *told, f"--ckpt_path={folder / 'checkpoints/last.ckpt'}"))
    assert again.run_folder == folder
    assert_same(outcome(whole), outcome(folder))


def test_its_time_is_that_of_all_its_parts(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = fit(data, tmp_path, "--run.resume=auto", "--run.checkpoint_steps=2")
    with pytest.raises(Mishap):
        VQACLI([*told, *callback("Strike", what="raise", hook="on_train_batch_start", step=7)])
    (last,) = tmp_path.rglob("last.ckpt")
    before = read_checkpoint(last).about["seconds"]
    seconds = VQACLI(told).model.about["seconds"]
    assert 0 < before < seconds
    assert f"Trained 3 epochs in {seconds:.1f} s." in capsys.readouterr().out
    # Nothing is left to train, and the last checkpoint was saved shortly before the end.
    assert before < VQACLI(told).model.about["seconds"] <= seconds
    assert "All epochs are already trained" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [[], ["--data.workers=2"], [*AUGMENTED, "--data.workers=2"]],
    ids=["alone", "with loaders", "with augmentation"],
)
def test_a_killed_process_comes_to_the_same(more: list[str], data: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle of an epoch leaves no chance to save; the same command resumes."""
    told = [*more, "--run.checkpoint_steps=2"]
    strike = callback(
        "Strike", what="SIGKILL", hook="on_before_optimizer_step", step=7, once=tmp_path / "struck"
    )
    struck = fit(data, tmp_path / "a", *told, *strike, "--run.resume=auto")
    assert run(struck).returncode == -signal.SIGKILL
    folder = only_run(tmp_path / "a")
    assert (folder / "checkpoints/last.ckpt").resolve().name == "step-00000006.ckpt"
    again = run(struck)
    assert again.returncode == 0, again.stderr[-3000:]
    assert only_run(tmp_path / "a") == folder
    assert_same(outcome(VQACLI(fit(data, tmp_path / "whole", *told)).run_folder), outcome(folder))
