"""The trainer of a run: Lightning's, with checkpoints, report and logs in the run's folder."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from vlm.core.compat import drop_signal_handlers
from vlm.core.errors import ConfigError
from vlm.core.validation import did_you_mean, nearest
from vlm.training.distributed.strategy import (
    as_list,
    check_processes,
    check_strategy,
    half_precision,
)
from vlm.training.fault_tolerance.checkpoint_dir import WholeFiles
from vlm.training.fault_tolerance.checkpointing import RunCheckpoint
from vlm.training.fault_tolerance.watchdog import Watchdog
from vlm.training.run_dir import CHECKPOINTS, RunOptions
from vlm.training.run_report import RunReport
from vlm.training.step_profile import StepProfile
from vlm.training.task import VQATask
from vlm.training.trainer_options import check_callbacks, check_options, trainer_options

DEFAULTS = {
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,  # RunReport's table says more
    "max_epochs": 10,
}
"""Options of the trainer that differ from Lightning's."""


def make_trainer(
    run: RunOptions, folder: Path, task: VQATask, stage: str = "fit", **options: Any
) -> Trainer:
    """Make the trainer of a run.

    Args:
        run: how it is saved and how it ends.
        folder: for its files.
        task: task to train; its figures are those that callbacks may monitor.
        stage: `fit`, `validate`, `test` or `predict`.
        **options: options of Lightning's `Trainer`.

    Raises:
        ConfigError: an option that does not exist, or would not work here.
    """
    config = _with_defaults(options)
    if run.matmul_precision is not None:
        torch.set_float32_matmul_precision(run.matmul_precision)
    fits = stage == "fit"
    check_options(config, stage, fits and run.test, task.schedule is not None)
    if fits:
        check_callbacks(config, task.model.head)
    check_strategy(config.strategy, config.callbacks)
    checkpoints = RunCheckpoint(
        folder / CHECKPOINTS,
        run.monitor,
        run.checkpoint_steps,
        run.checkpoint_minutes,
        saves=fits and config.enable_checkpointing is not False,
        resumes=run.resume is not None,
    )
    callbacks: list[Callback] = [*as_list(config.callbacks), RunReport(folder), checkpoints]
    if fits and run.profile:
        callbacks.append(StepProfile(folder))
    if run.stall_minutes is not None:
        callbacks.append(Watchdog(run.stall_minutes))
    bars = any(isinstance(callback, ProgressBar) for callback in callbacks)
    if config.enable_progress_bar is not False and not bars:
        callbacks.append(TQDMProgressBar(refresh_rate=20))
    plugins, precision = [*as_list(config.plugins), WholeFiles()], config.precision
    if half := half_precision(precision, config.strategy, config.accelerator):
        precision = None
        plugins.append(half)
    logger = config.logger
    if logger in (None, True):
        place: dict[str, Any] = {"save_dir": folder, "name": "", "version": ""}
        logger = [CSVLogger(**place), TensorBoardLogger(**place)]
    elif logger is not False and not any(isinstance(one, CSVLogger) for one in as_list(logger)):
        # Curves and continued runs read its file.
        logger = [CSVLogger(save_dir=folder, name="", version=""), *as_list(logger)]
    ours = {
        "default_root_dir": str(folder),
        "callbacks": callbacks,
        "plugins": plugins,
        "precision": precision,
        "logger": logger,
        "enable_checkpointing": True,  # `RunCheckpoint` has a place; whether it saves is its own
    }
    with trainer_options(config):
        trainer = Trainer(**vars(config) | ours)
    drop_signal_handlers(trainer)
    check_processes(trainer, config.sync_batchnorm)
    return trainer


def _with_defaults(options: dict[str, Any]) -> SimpleNamespace:
    parameters = inspect.signature(Trainer).parameters
    for name in options:
        if name not in parameters:
            near = did_you_mean(nearest(name, parameters))
            raise ConfigError(
                f"{name}: got {options[name]!r:.80}; expected an option of a run or of Lightning's "
                f"Trainer.{near}"
            )
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    return SimpleNamespace(**defaults | DEFAULTS | options)
