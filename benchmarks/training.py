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
import statistics
import tempfile
import time

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--config", default="configs/easy_vqa.yaml")
    parser.add_argument("--epochs", type=int, default=9)
    given = parser.parse_args()
    turns = TakeTurns()
    original = VQACLI.instantiate_trainer

    def with_turns(cli: VQACLI, **kwargs: object) -> Trainer:
        trainer = original(cli, **kwargs)
        trainer.callbacks.insert(0, turns)
        return trainer

    VQACLI.instantiate_trainer = with_turns
    with tempfile.TemporaryDirectory() as folder:
        cli = VQACLI(
            [
                "fit",
                f"--config={given.config}",
                f"--trainer.max_epochs={given.epochs}",
                "--run.test=false",
                f"--run.folder={folder}",
            ]
        )
    questions = len(cli.datamodule.table("train"))
    # The first epoch warms up.
    pairs = list(zip(turns.lightning, turns.plain, strict=True))[1:]
    ratios = sorted(plain / lightning for lightning, plain in pairs)
    rates = [questions / statistics.median(seconds) for seconds in zip(*pairs, strict=True)]
    print(
        f"\n{torch.get_num_threads()} threads, {questions:,} questions an epoch, {len(pairs)} pairs"
        "\n"
        f"plain loop {rates[1]:,.0f} questions/s, Lightning {rates[0]:,.0f} questions/s (medians)\n"
        f"Lightning / plain: median {statistics.median(ratios):.3f}, "
        f"range {ratios[0]:.3f} - {ratios[-1]:.3f} (to reach: 0.85)"
    )


if __name__ == "__main__":
    main()
