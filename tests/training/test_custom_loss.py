"""A custom loss function: trained with, recorded in the checkpoint, and used again on resuming."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import small_run
from custom_losses import halved

import vlm
from vlm.checkpoint.checkpoint import CheckpointError
from vlm.cli.training_cli import VQACLI

LOSS = "--model.head.init_args.loss=custom_losses.halved"
EXTENDABLE = "--model.schedule=null"


@pytest.fixture(scope="module")
def folder(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own_loss")
    return VQACLI([*small_run(data, folder), "--trainer.max_epochs=1", LOSS, EXTENDABLE]).run_folder


@pytest.mark.slow
def test_a_run_is_continued_with_the_function(folder: Path, data: Path, tmp_path: Path) -> None:
    last = f"--ckpt_path={folder / 'checkpoints/last.ckpt'}"
    again = VQACLI([*small_run(data, tmp_path), "--trainer.max_epochs=2", LOSS, EXTENDABLE, last])
    assert again.model.model.head.train_loss is halved
    assert again.trainer.current_epoch == 2


def test_another_loss_is_a_difference(folder: Path, data: Path, tmp_path: Path) -> None:
    last = f"--ckpt_path={folder / 'checkpoints/last.ckpt'}"
    with pytest.raises(CheckpointError, match=r"custom_losses\.halved"):
        VQACLI([*small_run(data, tmp_path), EXTENDABLE, last])


def test_the_checkpoint_answers_without_the_function(folder: Path) -> None:
    head = vlm.load(folder).model.head
    assert head.config["init_args"]["loss"] == "custom_losses.halved"
    assert head.train_loss is not halved
