"""Time of a training step under Lightning and in a plain loop, paired in one run.

    OMP_NUM_THREADS=1 python benchmarks/training.py
    OMP_NUM_THREADS=1 python benchmarks/training.py --data.images_per_batch=64

Same model, same decoded images in memory, same batches. Lightning has its loggers, metrics,
checkpoints and progress bar on. The two take turns epoch by epoch, so that the machine's mood
falls on both; the figure is the median of the ratios of neighbouring epochs, with its 95 %
bootstrap interval. Both leave out validation. Other options go to `vlm fit`.

On a machine that others use too, the CPU time of one thread is steadier than the clock's. To reach:
1.11 (the plain loop takes 0.90 of Lightning's time), and 1.03 where a step takes over 50 ms.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time

import numpy as np
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
        self.lightning: list[np.ndarray] = []
        self.plain: list[np.ndarray] = []
        self._started = now()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = now()

    # The first hook after the last batch: before validation.
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.lightning.append(now() - self._started)
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


def now() -> np.ndarray:
    """Seconds of the clock and of this process's CPU time."""
    return np.array([time.perf_counter(), time.process_time()])


def plain_epoch(task: LightningModule, loader: DataLoader[Batch]) -> np.ndarray:
    """Seconds of one epoch over the same loader, on a new copy of the model."""
    model = copy.deepcopy(task.model).train()
    optimizer = task.optimizer(model.parameters())
    schedule = WarmupCosine(optimizer, 10 * len(loader), len(loader))
    started = now()
    for batch in loader:
        loss = model.head.loss(model(batch), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return now() - started


def measure(options: list[str], pairs: int) -> list[Pairs]:
    """Times of a step by the clock and of the CPU. The first epoch warms up."""
    with tempfile.TemporaryDirectory() as folder:
        epochs = f"--trainer.max_epochs={pairs + 1}"
        cli = WithTurns(["fit", *options, epochs, "--run.test=false", f"--run.folder={folder}"])
    sides = [np.array(side[1:]).T for side in (cli.turns.lightning, cli.turns.plain)]
    return [
        Pairs(f"{kind} of a training step: under Lightning / in a plain loop", *times)
        for kind, *times in zip(
            ("time", "CPU time"),
            *(side / cli.trainer.num_training_batches for side in sides),
            strict=True,
        )
    ]


def compare_all(pairs: int) -> list[Pairs]:
    return measure(["--config=configs/easy_vqa.yaml"], pairs)[:1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--config", default="configs/easy_vqa.yaml")
    parser.add_argument("--pairs", type=int, default=9)
    given, more = parser.parse_known_args()
    found = measure([f"--config={given.config}", *more], given.pairs)
    print(f"\n{machine()}")
    for pairs in found:
        lightning, plain = (1000 * seconds for seconds in pairs.medians)
        print(
            f"{pairs.name}: {lightning:.2f} / {plain:.2f} ms (medians), {pairs.interval}, "
            f"{pairs.ratio}"
        )


if __name__ == "__main__":
    main()
