"""Where a run's files go, and which run is continued."""

from __future__ import annotations

import csv
import hashlib
import json
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only

from vlm.checkpoint.file import CheckpointError, newest_whole
from vlm.training.distributed.strategy import as_list
from vlm.training.schedule import WarmupSteps

CHECKPOINTS = "checkpoints"
MONITORED = ("val_accuracy", "val_loss")
TRAINER = (
    "min_epochs",
    "max_epochs",
    "max_steps",
    "limit_train_batches",
    "limit_val_batches",
    "overfit_batches",
    "accumulate_grad_batches",
    "gradient_clip_val",
    "gradient_clip_algorithm",
    "precision",
    "check_val_every_n_epoch",
    "val_check_interval",
)
"""Options of the trainer that change what is trained, or which checkpoint is the best."""
LENGTHS = ("trainer.max_epochs", "trainer.max_steps")


@dataclass
class RunOptions:
    """Where a run's files go, how it is saved and how it ends.

    Args:
        folder: the run gets a folder of its own in here, named by name and time.
        name: of the runs of this configuration.
        monitor: the best checkpoint is the one with the lowest (a loss) or highest of this.
        test: after `fit`, test the best checkpoint, once.
        resume: "auto" goes on with the run of exactly this configuration, or starts it.
        checkpoint_steps: also save every so many optimiser steps.
        checkpoint_minutes: also save whenever so many minutes have passed.
        stall_minutes: end if no batch is finished for so long; None waits for ever.
    """

    folder: str = "runs"
    name: str = "vqa"
    monitor: str = "val_accuracy"
    test: bool = False
    resume: Literal["auto"] | None = None
    checkpoint_steps: int | None = None
    checkpoint_minutes: float | None = None
    stall_minutes: float | None = 30

    def __post_init__(self) -> None:
        if self.monitor not in MONITORED:
            raise ValueError(
                f"run.monitor: got {self.monitor!r}; wanted a figure of the validation part, "
                f"{' or '.join(MONITORED)}."
            )
        for name in ("checkpoint_steps", "checkpoint_minutes", "stall_minutes"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"run.{name}: got {value}; wanted a positive number or null.")


def new_folder(run: RunOptions, subcommand: str) -> Path:
    """A folder that is not there yet, named by the time."""
    suffix = "" if subcommand == "fit" else f"-{subcommand}"
    folder = Path(run.folder) / run.name / (time.strftime("%Y%m%d-%H%M%S") + suffix)
    number = 1
    while folder.exists():
        number += 1
        folder = folder.with_name(f"{folder.name.split('.')[0]}.{number}")
    return folder


def folder_of(config: Mapping[str, Any]) -> Path:
    """The folder of the run of a configuration: the same for the same, whoever asks, and when.

    Args:
        config: of `fit`, plain data; where files go (`run`) does not count.
    """
    counted = {name: value for name, value in config.items() if name not in ("run", "ckpt_path")}
    digest = hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()[:10]
    return Path(config["run"]["folder"]) / config["run"]["name"] / f"auto-{digest}"


def folder_of_checkpoint(path: Path) -> Path | None:
    """The folder of the run that a checkpoint belongs to; None for a file that lies elsewhere."""
    return path.parent.parent if path.parent.name == CHECKPOINTS else None


def last_checkpoint(folder: Path) -> Path | None:
    """What a run continues from: its newest checkpoint that is whole; None before it has one. One
    that is not is named in a warning.

    Raises:
        CheckpointError: none of them is whole.
    """
    broken: list[CheckpointError] = []
    found = newest_whole(folder / CHECKPOINTS, broken)
    said = " ".join(map(str, broken))
    if broken and found is None:
        raise CheckpointError(f"{said} No checkpoint of this run is whole: remove {folder}.")
    if broken:
        warnings.warn(f"{said} The run goes on from {found}.", stacklevel=2)
    return found


def facts(config: Mapping[str, Any], data: LightningDataModule, trainer: Trainer) -> dict[str, Any]:
    """What a training depends on beside its model: a run is continued with the same only.

    Args:
        config: of `fit`, plain data.
        data: the data module of it.
        trainer: the trainer of it.
    """
    arguments = config["data"].get("init_args", {})
    images = arguments.get("images_per_batch", 0) * trainer.world_size
    table = data.table("train")  # type: ignore[attr-defined]
    averages = {type(c).__name__ for c in trainer.callbacks if isinstance(c, WeightAveraging)}  # type: ignore[attr-defined]
    callbacks = as_list(config["trainer"]["callbacks"])
    return {
        "seed_everything": config["seed_everything"],
        "model.optimizer": config["model"]["optimizer"],
        "model.schedule": config["model"]["schedule"],
        "model.tuning": config["model"]["tuning"],
        "data": config["data"]["class_path"],
        **{
            f"data.{name}": arguments.get(name)
            for name in ("questions_per_image", "seed", "control", "vocabulary")
        },
        "data.images_per_batch x processes": images,
        "the training questions": f"{len(table):,} with the digest {_digest(table)[:10]}",
        "averages of weights": [
            callback for callback in callbacks if callback["class_path"].split(".")[-1] in averages
        ],
        "run.monitor": config["run"]["monitor"],
        **{f"trainer.{name}": config["trainer"].get(name) for name in TRAINER},
    }


def _digest(table: pa.Table) -> str:
    """Of ids, questions and answers. Joined by Arrow: half a million rows take a part of a second,
    and seconds as objects of Python."""
    digest = hashlib.sha256()
    answers = pc.binary_join(table["answers"], "\t")
    for column in (table["id"], table["question"], answers):
        for chunk in filter(len, column.chunks):  # an empty one would be an empty text
            rows = pa.ListArray.from_arrays([0, len(chunk)], pc.fill_null(chunk, "\0"))
            digest.update(pc.binary_join(rows, "\n")[0].as_buffer())
            digest.update(b"\n")
    return digest.hexdigest()


def fact_differences(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Differences between a configuration's training and a checkpoint's, one line each.

    A training may be extended, unless the first steps of its schedule depend on its length.
    """
    lines = []
    for name in asked:
        if name not in stored or stored[name] == asked[name]:
            continue
        line = f"{name}: {stored[name]} in the checkpoint, {asked[name]} asked"
        if name in LENGTHS and _longer(stored[name], asked[name]):
            schedule = asked["model.schedule"]
            if not _spans_all(schedule):
                continue
            line += (
                f"; {schedule['class_path'].split('.')[-1]} spans the whole training, so all its "
                f"steps would have had other learning rates. To train on, start a run from these "
                f"weights: --model.tuning.init_from=CHECKPOINT instead of --ckpt_path. A run with "
                f"model.schedule=null, or WarmupSteps in epochs or steps, can be extended"
            )
        lines.append(line)
    return lines


def _longer(length: int | None, other: int | None) -> bool:
    unlimited = (None, -1)
    return length not in unlimited and (other in unlimited or other > length)


def _spans_all(schedule: Mapping[str, Any] | None) -> bool:
    """Whether a schedule's first steps depend on the number of steps; True if unknown."""
    if schedule is None:
        return False
    path = schedule["class_path"]
    ours = path.startswith("vlm.training.") and path.endswith(f".{WarmupSteps.__name__}")
    return not ours or schedule["init_args"]["unit"] == "share"


@rank_zero_only
def continue_metrics(logger: CSVLogger, step: int) -> None:
    """Let a logger go on with the `metrics.csv` that is there, as it was at a checkpoint.

    Lightning's begins by removing it.

    Args:
        logger: that has logged nothing yet.
        step: optimiser steps of the checkpoint; later rows are dropped, being made again.
    """
    path = Path(logger.log_dir) / "metrics.csv"
    rows: list[dict[str, Any]] = []
    if path.is_file():
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if int(row["step"]) < step]
        path.unlink()
    logger.experiment.metrics.extend({k: v for k, v in row.items() if v} for row in rows)
    logger.save()
