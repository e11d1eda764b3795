"""A plain Lightning `Trainer` trains a task just as the command line does."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from training_runs import ENVIRONMENT, fit, only_run

from vlm.checkpoint.checkpoint import CheckpointError, read_checkpoint
from vlm.cli.training_cli import VQACLI
from vlm.core.batch import Batch
from vlm.data import VQADataModule
from vlm.datasets import EasyVQA
from vlm.fusion import Pooled, Product
from vlm.heads import Classification
from vlm.image import ConvNet
from vlm.text import BagOfWords
from vlm.training import VQATask

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:Starting from v1.9.0, `tensorboardX`"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*sync_dist=True"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks"),
    pytest.mark.filterwarnings("ignore:.*step=.*its content cannot be verified"),
]


def make(root: Path, seed: int = 0, dropout: float = 0.3) -> tuple[VQATask, EasyVQA]:
    """Build what `training_runs.fit` builds on the command line, in the same order."""
    seed_everything(0)
    data = VQADataModule(EasyVQA(str(root), validation_share=0.25), images_per_batch=2)
    text, image = BagOfWords(data.words), ConvNet()
    fusion = Pooled(image.dim, text.dim, merge=partial(Product, dropout=dropout))
    head = Classification(fusion.out_dim, data.answers)
    optimizer = partial(torch.optim.AdamW, lr=0.003, weight_decay=0.01, fused=True)
    return VQATask(image, text, fusion, head, optimizer, seed=seed), data


def train(task: VQATask, data: VQADataModule, folder: Path, **options: Any) -> Trainer:
    """Train with Lightning, using only the task and its data from vlm."""
    ckpt_path = options.pop("ckpt_path", None)
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        **{"max_epochs": 3, "log_every_n_steps": 2} | options,
    )
    trainer.fit(task, data, ckpt_path=ckpt_path)
    return trainer


class Seen(Callback):
    """Records the questions of each training batch, in order."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, ...]] = []

    def on_train_batch_start(self, trainer: Any, task: Any, batch: Batch, index: int) -> None:
        self.batches.append(tuple(batch.ids))


def saving(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, filename="{step}", every_n_train_steps=4, save_top_k=-1)


def assert_equal_weights(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_its_weights_are_those_of_the_command_line(data: Path, tmp_path: Path) -> None:
    VQACLI(fit(data, tmp_path / "runs"))
    path = only_run(tmp_path / "runs") / "checkpoints/last.ckpt"
    task, module = make(data)
    train(task, module, tmp_path, enable_checkpointing=False)
    assert_equal_weights(task.model.state_dict(), read_checkpoint(path).weights)


def test_resumption_in_mid_epoch_delivers_the_next_batch(data: Path, tmp_path: Path) -> None:
    whole = Seen()
    task, module = make(data)
    train(task, module, tmp_path, callbacks=[whole, saving(tmp_path)])
    assert len(whole.batches) == 15  # 5 an epoch
    rest, (again, module) = Seen(), make(data)
    train(again, module, tmp_path, callbacks=[rest], ckpt_path=tmp_path / "step=8.ckpt")
    assert rest.batches == whole.batches[8:]
    assert_equal_weights(again.model.state_dict(), task.model.state_dict())


def test_a_seed_changes_dropout(data: Path, tmp_path: Path) -> None:
    weights = []
    for seed in (0, 0, 1):
        task, module = make(data, seed)
        train(task, module, tmp_path, enable_checkpointing=False, max_epochs=1)
        weights.append(torch.cat([value.flatten() for value in task.model.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_checkpoint_has_its_origin(data: Path, tmp_path: Path) -> None:
    task, module = make(data, seed=3)
    train(task, module, tmp_path, callbacks=[saving(tmp_path)])
    checkpoint = read_checkpoint(tmp_path / "step=12.ckpt")
    assert checkpoint.words == module.words
    assert checkpoint.answers == module.answers
    about = checkpoint.about
    assert about["vocabulary"]["hash"] == module.dataset.describe_answers()["hash"]
    assert about["data"] == "vlm.datasets.easy_vqa.EasyVQA"
    assert about["run"] == str(tmp_path)
    assert about["training"]["seed_everything"] == 3
    assert about["training"]["model.optimizer"]["init_args"]["lr"] == 0.003


def test_its_training_facts_are_those_of_the_command_line(data: Path, tmp_path: Path) -> None:
    """Each can therefore resume what the other began."""
    VQACLI(fit(data, tmp_path / "runs"))
    path = only_run(tmp_path / "runs") / "checkpoints/last.ckpt"
    task, module = make(data)
    train(task, module, tmp_path, callbacks=[saving(tmp_path)])
    ours = read_checkpoint(path).about["training"]
    plain = read_checkpoint(tmp_path / "step=12.ckpt").about["training"]
    assert ours.pop("run.monitor") == "val_loss"  # a plain trainer saves no best checkpoint
    assert ours == plain


def test_another_training_is_refused(data: Path, tmp_path: Path) -> None:
    task, module = make(data)
    train(task, module, tmp_path, callbacks=[saving(tmp_path)])
    again, module = make(data, seed=1)
    with pytest.raises(CheckpointError, match="seed_everything: 0 in the checkpoint, 1 asked"):
        train(again, module, tmp_path, ckpt_path=tmp_path / "step=8.ckpt")


PROGRAM = """
import sys
from pathlib import Path
from test_plain_trainer import make, train
from vlm.training.fault_tolerance.leave import leave

task, data = make(Path(sys.argv[1]), dropout=0.0)
trainer = train(task, data, Path(sys.argv[2]), devices=2, strategy="ddp", callbacks=[])
trainer.test(task, data, verbose=False)
assert trainer.global_step == 9, trainer.global_step  # 9 images: 3 batches of 2 in 2 processes
assert len(task.evaluation.results.predictions) == 36
leave(0)
"""


@pytest.mark.slow
def test_two_processes_train(data: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(program), str(data), str(tmp_path)],
        env=ENVIRONMENT | {"PYTHONPATH": f"{ENVIRONMENT['PYTHONPATH']}:{ROOT / 'tests'}"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
