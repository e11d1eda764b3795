"""How much of a training step is spent waiting for data, for every shipped configuration.

    python benchmarks/waiting.py                               # all that can run here
    python benchmarks/waiting.py configs/easy_vqa.yaml --steps 50 --more=--data.workers=2

Trains under Lightning as `vlm fit` does, for two epochs of at most `--steps` batches, and adds up
what the second one spends in asking the loader for the next batch and in the step itself (actions
that Lightning tells its profilers). In the first, images are decoded and memory is taken. A batch
that a loader worker made meanwhile costs what is left to wait for. To reach: below 5 %.

The share is given of the time that passes and of this process's CPU time. On a machine that others
use too the second is the steadier one; with loader workers only the first means anything.

Sets that are not in the package come from `../shared/data` or the folder of VLM_DATA; a
configuration whose data are not there is listed as left out.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import Profiler

from vlm.cli.training_cli import READABLE, VQACLI
from vlm.core.errors import ConfigError

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("VLM_DATA", ROOT.parent / "shared/data"))
ROOTS = {"daquar": DATA / "daquar"}
"""Folders of the sets that configurations name by `daquar` and so on."""
WAIT, STEP = "[_TrainingEpochLoop].train_dataloader_next", "run_training_batch"
LIMIT = 0.05


class Seconds(Profiler):
    """Adds up the seconds of each action, of the clock and of the CPU, and counts the steps."""

    def __init__(self) -> None:
        super().__init__()
        self.total: defaultdict[str, np.ndarray] = defaultdict(lambda: np.zeros(2))
        self.steps = 0
        self._started: dict[str, np.ndarray] = {}

    def start(self, action_name: str) -> None:
        self._started[action_name] = _now()

    def stop(self, action_name: str) -> None:
        if (started := self._started.pop(action_name, None)) is not None:
            self.total[action_name] += _now() - started
            self.steps += action_name == STEP

    def describe(self) -> None:
        pass


def _now() -> np.ndarray:
    return np.array([time.perf_counter(), time.process_time()])


class SecondEpoch(Callback):
    """Forgets what the first one took."""

    def __init__(self, seconds: Seconds) -> None:
        self.seconds = seconds

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds.total.clear()
        self.seconds.steps = 0


class Timed(VQACLI):
    """`vlm fit` with a profiler of ours."""

    seconds: Seconds

    def instantiate_trainer(self, **kwargs: object) -> Trainer:
        self.seconds = Seconds()
        trainer = super().instantiate_trainer(profiler=self.seconds, **kwargs)
        trainer.callbacks.insert(0, SecondEpoch(self.seconds))
        return trainer


def measure(config: Path, steps: int, more: list[str]) -> tuple[float, float, float]:
    """Seconds of a step with its waiting, and the share of the waiting in them and in CPU time."""
    known = [f"--dataset.root={root}" for name, root in ROOTS.items() if name in config.stem]
    with tempfile.TemporaryDirectory() as folder:
        cli = Timed(
            [
                "fit",
                f"--config={config}",
                *known,
                "--trainer.max_epochs=2",
                f"--trainer.limit_train_batches={steps}",
                "--trainer.limit_val_batches=1",
                "--trainer.enable_progress_bar=false",
                "--trainer.enable_model_summary=false",
                "--run.test=false",
                f"--run.folder={folder}",
                *more,
            ]
        )
    waiting, working = cli.seconds.total[WAIT], cli.seconds.total[STEP]
    whole = waiting + working
    return (whole[0] / cli.seconds.steps, *(waiting / whole))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("configs", nargs="*", type=Path, help="configurations of `vlm fit` (all)")
    parser.add_argument("--steps", type=int, default=100, help="of an epoch (default 100)")
    parser.add_argument("--more", action="append", default=[], help="an option of `vlm fit`")
    given = parser.parse_args()
    lines = []
    for config in given.configs or sorted((ROOT / "configs").glob("*.yaml")):
        try:
            seconds, waiting, cpu = measure(config, given.steps, given.more)
        except (ConfigError, *READABLE) as error:
            lines.append(f"| {config.stem} | left out: {str(error).splitlines()[0][:60]} | | | |")
            continue
        below = "yes" if waiting < LIMIT else "NO"
        lines.append(
            f"| {config.stem} | {1000 * seconds:.1f} | {waiting:.1%} | {cpu:.1%} | {below} |"
        )
    print(f"\n{torch.get_num_threads()} threads, at most {given.steps} steps\n")
    print("| configuration | a step, ms | of it waiting | of its CPU time | below 5 % |")
    print("|---|---|---|---|---|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
