"""Questions per second of training under Lightning and in a plain loop, paired in one run.

    python benchmarks/training.py

Same model, same decoded images in memory, same batches. Lightning has its loggers, metrics,
checkpoints and progress bar on. The two take turns epoch by epoch, so that the machine's mood
falls on both; the figure is the median of the ratios of neighbouring epochs. Both leave out
validation.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from pairs import Pairs, machine
from torch.utils.data import DataLoader

from vlm.cli.training_cli import VQACLI
from vlm.core.batch import Batch
from vlm.training.schedule import WarmupCosine


class TakeTurns(Callback):
    """Times the trainer's epochs, and runs a plain one of a copy of the model after each."""

    def __init__(self) -> None:
        self.lightning: list[float] = []
        self.plain: list[float] = []
        self._started = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = time.perf_counter()

    # The first hook after the last batch: before validation.
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.lightning.append(time.perf_counter() - self._started)
        with torch.enable_grad():
            self.plain.append(plain_epoch(pl_module, trainer.train_dataloader))


class WithTurns(VQACLI):
    """`vlm fit` with the callback."""

    turns: TakeTurns

    def instantiate_trainer(self, **kwargs: object) -> Trainer:
        self.turns = TakeTurns()
        trainer = super().instantiate_trainer(**kwargs)
        trainer.callbacks.insert(0, self.turns)
        return trainer


def plain_epoch(task: LightningModule, loader: DataLoader[Batch]) -> float:
    """Seconds of one epoch over the same loader, on a new copy of the model."""
    model = copy.deepcopy(task.model).train()
    optimizer = task.optimizer(model.parameters())
    schedule = WarmupCosine(optimizer, 10 * len(loader), len(loader))
    started = time.perf_counter()
    for batch in loader:
        loss = model.head.loss(model(batch), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return time.perf_counter() - started


def measure(config: str, epochs: int) -> tuple[Pairs, int]:
    """Times of an epoch, and its questions. The first epoch warms up."""
    with tempfile.TemporaryDirectory() as folder:
        cli = WithTurns(
            [
                "fit",
                f"--config={config}",
                f"--trainer.max_epochs={epochs}",
                "--run.test=false",
                f"--run.folder={folder}",
            ]
        )
    title = "an epoch of easy-VQA: under Lightning / in a plain loop"
    pairs = Pairs(title, cli.turns.lightning[1:], cli.turns.plain[1:])
    return pairs, len(cli.datamodule.table("train"))


def compare_all(pairs: int) -> list[Pairs]:
    return [measure("configs/easy_vqa.yaml", pairs + 1)[0]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--config", default="configs/easy_vqa.yaml")
    parser.add_argument("--epochs", type=int, default=9)
    given = parser.parse_args()
    pairs, questions = measure(given.config, given.epochs)
    lightning, plain = (questions / seconds for seconds in pairs.medians)
    print(
        f"\n{machine()}, {questions:,} questions an epoch\n"
        f"plain loop {plain:,.0f} questions/s, Lightning {lightning:,.0f} questions/s (medians)\n"
        f"seconds under Lightning / in a plain loop: {pairs.ratio}; to reach: 1.18"
    )


if __name__ == "__main__":
    main()
