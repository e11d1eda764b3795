"""Refuse options of Lightning's trainer that would not work here, before anything starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from typing import Any

import pyarrow.compute as pc
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    BatchSizeFinder,
    Callback,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelCheckpoint,
    ModelPruning,
    OnExceptionCheckpoint,
    SpikeDetection,
    StochasticWeightAveraging,
    Timer,
)
from lightning.pytorch.strategies import StrategyRegistry
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from vlm.core.errors import ConfigError
from vlm.core.validation import did_you_mean, nearest
from vlm.data.datamodule import VQADataModule
from vlm.heads.base import AnswerHead
from vlm.heads.multi_task import MultiTask
from vlm.training.distributed.strategy import as_list

TAKEN = {
    "default_root_dir": "use run.folder and run.name, which set where files go",
    "barebones": "leave it out: it turns off the checkpoints and the log of a run",
    "model_registry": "use `vlm share`; nothing is uploaded to Lightning's registry",
}
"""Refused options of the trainer -> the remedy."""
REPLACED: dict[type[Callback], str] = {
    StochasticWeightAveraging: "use EMAWeightAveraging or WeightAveraging: this one averages "
    "only after the last checkpoint",
    GradientAccumulationScheduler: "use trainer.accumulate_grad_batches: a step has the same "
    "number of batches in every epoch",
    BaseFinetuning: "use model.tuning, which sets what is trained from which epoch",
    BatchSizeFinder: "use data.images_per_batch",
    LearningRateFinder: "use model.optimizer.lr",
    ModelPruning: "leave it out: a pruned model no longer fits its configuration",
    OnExceptionCheckpoint: "use run.checkpoint_steps or run.checkpoint_minutes, and "
    "run.resume=auto",
    SpikeDetection: "leave it out: a loss that is not finite ends the training by itself",
    Timer: "use trainer.max_time",
}
"""Refused callbacks -> the remedy."""
_LEAST = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "gradient_clip_val": 0,
    "log_every_n_steps": 0,
}
_EVALUATED = {"validate": "val", "test": "test", "predict": "predict"}


def check_options(options: Any, subcommand: str, tests: bool, scheduled: bool) -> None:
    """Refuse options that Lightning would ignore, or reject in the middle of a run.

    Raises:
        ConfigError: names the option, what it got, what was expected and the remedy.
    """
    for name, remedy in TAKEN.items():
        if (given := getattr(options, name)) not in (None, False):
            raise ConfigError(f"trainer.{name}: got {given}; {remedy}.")
    if any(isinstance(plugin, CheckpointIO) for plugin in as_list(options.plugins)):
        raise ConfigError(
            "trainer.plugins: got a CheckpointIO; leave it out: vlm writes the checkpoints."
        )
    for name, least in _LEAST.items():
        if (given := getattr(options, name)) is not None and given < least:
            raise _expected(options, name, f"at least {least}")
    if options.val_check_interval == 0:
        raise _expected(options, "val_check_interval", "more than 0")
    for name in ("max_epochs", "max_steps"):
        if getattr(options, name) == 0:
            raise _expected(options, name, "a positive number, or -1 for no limit")
    for name in ("epochs", "steps"):
        least, most = getattr(options, f"min_{name}"), getattr(options, f"max_{name}")
        if least is not None and most is not None and 0 < most < least:
            raise _expected(options, f"min_{name}", f"at most trainer.max_{name}={most}")
    used = ["train", *(["test"] if tests else [])]
    for part in used if subcommand == "fit" else [_EVALUATED[subcommand]]:
        if getattr(options, f"limit_{part}_batches") == 0:
            doing = "run.test=true" if part == "test" and tests else f"`{subcommand}`"
            raise _expected(options, f"limit_{part}_batches", f"more than 0 for {doing}")
    if subcommand == "fit" and scheduled and options.max_epochs == options.max_steps == -1:
        raise ConfigError(
            "trainer.max_epochs: got -1 without trainer.max_steps; expected a limit, since the "
            "learning rate follows a schedule. To train without one, set model.schedule=null."
        )


def _expected(options: Any, name: str, what: str) -> ConfigError:
    return ConfigError(f"trainer.{name}: got {getattr(options, name)}; expected {what}.")


def check_callbacks(options: Any, head: AnswerHead) -> None:
    """Refuse callbacks that would not work here.

    Raises:
        ConfigError: a callback that is refused, that monitors a figure that is not logged or with
            the wrong mode, or that would write among our checkpoints.
    """
    figures = [] if options.log_every_n_steps == 0 else ["train_loss"]
    if options.limit_val_batches != 0:
        heads = [f"{name}_accuracy" for name in head.heads] if isinstance(head, MultiTask) else []
        figures += [f"val_{name}" for name in ("accuracy", "loss", *heads)]
    callbacks = as_list(options.callbacks)
    others = any(type(c).__module__.split(".")[0] not in ("lightning", "vlm") for c in callbacks)
    for callback in callbacks:
        name = type(callback).__name__
        for refused, remedy in REPLACED.items():
            if isinstance(callback, refused):
                raise ConfigError(f"trainer.callbacks: got {name}; {remedy}.")
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            raise ConfigError(
                f"trainer.callbacks: got {name} without a dirpath; expected a folder of its own. "
                f"The best and the last checkpoint are kept without it: see run.monitor."
            )
        watches = isinstance(callback, (EarlyStopping, ModelCheckpoint)) and callback.monitor
        if watches and (watches in figures or not others):  # a user's callback may log its own
            _check_monitor(name, callback.monitor, callback.mode, figures)


def _check_monitor(name: str, monitor: str, mode: str, figures: Sequence[str]) -> None:
    if monitor not in figures:
        raise ConfigError(
            f"trainer.callbacks: got {name} with monitor={monitor}; expected "
            + (f"one of {', '.join(figures)}." if figures else "none: nothing is logged.")
        )
    best = "min" if monitor.endswith("loss") else "max"
    if mode != best:
        raise ConfigError(
            f"trainer.callbacks: got {name} with monitor={monitor} and mode={mode}; expected "
            f"mode={best}. It would keep the worst instead of the best."
        )


def check_test_limit(data: VQADataModule, trainer: Trainer) -> None:
    """Check that there is a batch to test, which Lightning does only after a training.

    Raises:
        ConfigError: a share of the batches that is less than one.
    """
    limit, images = trainer.limit_test_batches, pc.count_distinct(data.table("test")["image"])
    batches = ceil(images.as_py() / (data.images_per_batch * trainer.world_size))
    if isinstance(limit, float) and batches * limit < 1:
        raise ConfigError(
            f"trainer.limit_test_batches: got {limit} of {batches} batches; expected at least "
            f"{1 / max(1, batches):.4g} for run.test=true."
        )


@contextmanager
def trainer_options(options: Any) -> Iterator[None]:
    """While a trainer is made, a mistake in its options becomes a message of one line.

    Args:
        options: options of the trainer; names are checked here, so that the error can name the
            nearest.

    Raises:
        ConfigError: an option that Lightning does not know, or refuses.
    """
    strategies, accelerators = StrategyRegistry, AcceleratorRegistry
    _check_name("strategy", options.strategy, ["auto", *strategies.available_strategies()])
    known = ["auto", "gpu", *accelerators.available_accelerators()]
    _check_name("accelerator", options.accelerator, known)
    try:
        yield
    except (MisconfigurationException, ImportError, TypeError, ValueError) as error:
        raise ConfigError(f"trainer: {error}") from error


def _check_name(option: str, asked: Any, known: list[str]) -> None:
    if isinstance(asked, str) and asked.lower() not in known:
        hint = did_you_mean(nearest(asked, known))
        names = f"Lightning's names.{hint}" if hint else f"{', '.join(known)}."
        raise ConfigError(f"trainer.{option}: got {asked!r}; expected one of {names}")
