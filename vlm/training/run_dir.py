"""Where a run's files go, and which run is continued."""

from __future__ import annotations

import csv
import hashlib
import json
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only

from vlm.checkpoint.file import CheckpointError, newest_whole
from vlm.core.errors import ConfigError
from vlm.core.files import write_whole
from vlm.model import PARTS
from vlm.training.fault_tolerance.checkpoint_dir import LAST

CHECKPOINTS = "checkpoints"
MONITORED = ("val_accuracy", "val_loss")


@dataclass
class RunOptions:
    """Options for a run's files, checkpoints and end.

    Args:
        folder: parent folder of the runs; each run gets its own, named after the run and the time.
        name: name of the runs of this configuration.
        monitor: metric that chooses the best checkpoint, by its lowest (a loss) or highest value.
        test: whether to test the best checkpoint after `fit`.
        resume: "auto" continues the run of exactly this configuration, or starts one.
        checkpoint_steps: optimiser steps between additional checkpoints.
        checkpoint_minutes: minutes between additional checkpoints.
        matmul_precision: precision of float32 matrix products on a GPU, for the whole process;
            "high" uses TensorFloat-32, which is faster. None keeps torch's setting.
        stall_minutes: number of minutes without a finished batch after which the run stops; None
            never stops it.
        gradient_checkpointing: parts (image_encoder, text_encoder, fusion, head) whose activations
            are computed again in the backward pass, which takes less memory and more time.
        compile: parts that `torch.compile` compiles in the first steps.
        find_batch_size: whether to double data.images_per_batch until memory is full, and to train
            with the largest size that fits instead of the configured one.
        profile: whether to time some steps by part, for a table at the end and a trace in the run's
            folder.
    """

    folder: str = "runs"
    name: str = "vqa"
    monitor: str = "val_accuracy"
    test: bool = False
    resume: Literal["auto"] | None = None
    checkpoint_steps: int | None = None
    checkpoint_minutes: float | None = None
    matmul_precision: Literal["highest", "high", "medium"] | None = None
    stall_minutes: float | None = 30
    gradient_checkpointing: list[str] | None = None
    compile: list[str] | None = None
    find_batch_size: bool = False
    profile: bool = False

    def __post_init__(self) -> None:
        if self.monitor not in MONITORED:
            raise ValueError(
                f"run.monitor: got {self.monitor!r}; expected a figure of the validation part, "
                f"{' or '.join(MONITORED)}."
            )
        for name in ("checkpoint_steps", "checkpoint_minutes", "stall_minutes"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"run.{name}: got {value}; expected a positive number or null.")
        for name in ("gradient_checkpointing", "compile"):
            for part in getattr(self, name) or ():
                if part not in PARTS:
                    raise ValueError(
                        f"run.{name}: got {part!r}; expected parts, of {', '.join(PARTS)}."
                    )


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
        config: of `fit`, plain data; where files and metrics go (`run`, `trainer.logger`) does not
            count.
    """
    counted = {name: value for name, value in config.items() if name not in ("run", "ckpt_path")}
    counted["trainer"] = {k: v for k, v in config.get("trainer", {}).items() if k != "logger"}
    digest = hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()[:10]
    return Path(config["run"]["folder"]) / config["run"]["name"] / f"auto-{digest}"


def choose_folder(
    run: RunOptions, config: Callable[[], Mapping[str, Any]], ckpt_path: str | Path | None
) -> tuple[Path, Path | None]:
    """The folder of a training, and the checkpoint that it goes on from, if it does.

    Args:
        run: its options.
        config: makes that of `fit`, plain data; called only where a run is resumed by it.
        ckpt_path: a checkpoint, or a run's folder; a run that is continued keeps its folder.

    Raises:
        ConfigError: both `run.resume` and a checkpoint.
        CheckpointError: none of the checkpoints of the run that is resumed is whole.
    """
    if run.resume == "auto":
        if ckpt_path:
            raise ConfigError(
                f"run.resume: got auto, and ckpt_path={ckpt_path}; expected one of them."
            )
        folder = folder_of(config())
        return folder, last_checkpoint(folder)
    if not ckpt_path:
        return new_folder(run, "fit"), None
    path = checkpoint_in(ckpt_path, LAST)
    return folder_of_checkpoint(path) or new_folder(run, "fit"), path


def checkpoint_in(path: str | Path, name: str) -> Path:
    """A checkpoint itself, or the one of this name in a run's folder."""
    return Path(path) / CHECKPOINTS / name if Path(path).is_dir() else Path(path)


def write_config(folder: Path, config: Mapping[str, Any], command: str = "") -> None:
    """Write a run's configuration below the command that began it, unless the run has one already,
    being continued."""
    path = folder / "config.yaml"
    if not path.is_file():
        first = f"# {command}\n" if command and "\n" not in command else ""
        write_whole(path, (first + yaml.safe_dump(dict(config), sort_keys=False)).encode())


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
        raise CheckpointError(f"{said} No checkpoint of this run is intact: remove {folder}.")
    if broken:
        warnings.warn(f"{said} The run continues from {found}.", stacklevel=2)
    return found


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
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        # A process that was killed or had no space may have left a part of a line.
        whole = [line for line in lines if line.endswith("\n")]
        rows = [row for row in csv.DictReader(whole) if int(row["step"]) < step]
        path.unlink()
    logger.experiment.metrics.extend({k: v for k, v in row.items() if v} for row in rows)
    logger.save()
