"""`vlm.fit`: train a task in a run's folder, test it, and ask it."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from dataclasses import asdict, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger

from vlm.checkpoint.checkpoint import Checkpoint, packages_of, read_checkpoint
from vlm.core.errors import ConfigError
from vlm.core.part import check_parts
from vlm.data.compatibility import check_compatible
from vlm.data.datamodule import VQADataModule
from vlm.datasets.table import TooFewError
from vlm.inference import VQA, Answer, load
from vlm.model import PARTS
from vlm.training.fault_tolerance.checkpoint_dir import BEST, LAST
from vlm.training.fault_tolerance.signals import handlers_kept
from vlm.training.finetuning.plan import check_plan
from vlm.training.large_models import checkpoint_gradients, compile_parts, find_batch_size
from vlm.training.origin import facts, plain
from vlm.training.resume_checks import fact_differences, part_differences, refuse
from vlm.training.run_dir import (
    CHECKPOINTS,
    RunOptions,
    choose_folder,
    continue_metrics,
    write_config,
)
from vlm.training.run_lock import training_in
from vlm.training.silence import silence
from vlm.training.task import VQATask
from vlm.training.trackers import send_config
from vlm.training.trainer import DEFAULTS, make_trainer
from vlm.training.trainer_options import check_test_limit
from vlm.trust.calibrate import calibrate

_WIDTHS = {"image_dim": "the image encoder", "text_dim": "the text encoder"}
LINKED = {
    "text_encoder": {"words": "the training questions"},
    "fusion": _WIDTHS,
    "head": {"in_dim": "the fusion", "answers": "the vocabulary of the data set", **_WIDTHS},
}
"""Arguments of the parts that the command line takes from the data and from other parts, and from
which."""


class Run:
    """A finished training: its files, its test figures and its model.

    Args:
        folder: folder of the run's files.
        test: figures of the test, by name; accuracies are in [0, 1].
        task: the trained task, as the training left it.
        trainer: Lightning trainer that trained the task.

    Example:
        >>> run = vlm.fit(task, data, name="first")  # doctest: +SKIP
        >>> run.answer("photo.png", "what color is it?").text  # doctest: +SKIP
        'blue'
    """

    def __init__(
        self, folder: Path, test: dict[str, float], task: VQATask, trainer: Trainer
    ) -> None:
        self.folder, self.test, self.task, self.trainer = folder, test, task, trainer

    def __repr__(self) -> str:
        accuracy = f", accuracy {self.test['accuracy']:.4f}" if "accuracy" in self.test else ""
        return f"Run({str(self.folder)!r}{accuracy})"

    @property
    def checkpoint(self) -> Path | None:
        """The best checkpoint, or the last if nothing was validated; None if none was saved."""
        return saved_checkpoint(self.folder)

    @cached_property
    def model(self) -> VQA:
        """The model of `checkpoint`; without a checkpoint, as training left it."""
        path = self.checkpoint
        return VQA(self.task.model, self.task.about) if path is None else load(path, trust=True)

    def answer(self, image: Any, question: Any, **options: Any) -> Answer | list[Answer]:
        """Answer a question about an image; arguments and errors are those of `VQA.answer`."""
        answers: Answer | list[Answer] = self.model.answer(image, question, **options)
        return answers


def fit(
    task: VQATask,
    data: VQADataModule,
    *,
    test: bool = True,
    ckpt_path: str | Path | None = None,
    **options: Any,
) -> Run:
    """Train a task as `vlm fit` does: in its own folder, with checkpoints, logs and a report, and
    with a test of the best checkpoint at the end.

    Args:
        task: task to train.
        data: data to train, validate and test on.
        test: whether the best checkpoint is tested at the end.
        ckpt_path: checkpoint or run folder to continue from, at the very next batch.
        **options: options of the run (`RunOptions`: `folder`, `name`, `monitor`, `resume`, ...) and
            of Lightning's `Trainer` (`max_epochs`, `accelerator`, `devices`, `precision`, ...).

    Returns:
        The finished run.

    Raises:
        ConfigError: an option that does not exist or does not fit.
        CheckpointError: a checkpoint that is broken, or of another model or training.
        FileNotFoundError: a file of the data set is missing.
        DataError: data that cannot be read, or that the task cannot learn from.
        NotFiniteError: a loss or gradients that are not finite.
        Preempted: SIGTERM or SIGUSR1 arrived; everything is saved.

    Example:
        >>> data = vlm.VQADataModule(vlm.datasets.EasyVQA())  # doctest: +SKIP
        >>> run = vlm.fit(task, data, max_epochs=5, name="first")  # doctest: +SKIP
    """
    names = {field.name for field in fields(RunOptions)} & options.keys()
    try:
        run = RunOptions(test=test, **{name: options.pop(name) for name in names})
    except ValueError as error:
        raise ConfigError(str(error)) from error
    config = run_config(task, data, run, options)
    folder, path = choose_folder(run, lambda: config, ckpt_path)
    checkpoint = None if path is None else read_checkpoint(path)
    with handlers_kept(), warnings.catch_warnings():
        silence()
        trainer = make_trainer(run, folder, task, **options)
        folder, figures = train(trainer, task, data, run, folder, config, checkpoint)
    return Run(folder, figures, task, trainer)


def train(
    trainer: Trainer,
    task: VQATask,
    data: VQADataModule,
    run: RunOptions,
    folder: Path,
    config: dict[str, Any],
    checkpoint: Checkpoint | None = None,
    command: str = "",
) -> tuple[Path, dict[str, float]]:
    """Train in a run's folder, after all that can be checked is. `command` stands in its
    configuration.

    Returns:
        The folder that all processes agreed on, and the test's figures by name.
    """
    try:
        # Or the checkpoints could be neither continued nor tested.
        check_parts(task.model.config, packages_of(task.model.config))
        check_plan(task.layers, task.tuning, trainer.max_epochs)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    # First: a run is continued with the questions that are left.
    for split in ("train", "validation"):
        data.skip_unreadable(split, task.model.processor.transform)
    checkpoint_gradients(task.model, run.gradient_checkpointing or ())
    if run.find_batch_size:
        _set_batch_size(task, data, trainer, config, checkpoint)
    compile_parts(task.model, run.compile or ())
    if checkpoint is not None:  # before the images are read, which may take long
        refuse(checkpoint.path, part_differences(checkpoint.model, task.model), "model")
        stored = checkpoint.about.get("training", {})
        refuse(checkpoint.path, fact_differences(stored, facts(task, data, trainer)), "training")
    if run.test:
        check_compatible(data.dataset, "test", task.model)
        check_test_limit(data, trainer)
    with training_in(folder) if trainer.is_global_zero else nullcontext():
        dry: Any = trainer.fast_dev_run  # type: ignore[attr-defined]  # set later
        if trainer.is_global_zero and not dry:
            write_config(folder, config, command)
            send_config(trainer.loggers, config, checkpoint is not None)
        if checkpoint is not None:
            for logger in trainer.loggers:
                if isinstance(logger, CSVLogger):
                    continue_metrics(logger, checkpoint.step)
        # Not as an argument, which `VQATask.setup` would not see.
        trainer.ckpt_path = checkpoint and str(checkpoint.path)
        trainer.fit(task, datamodule=data)
        trainer.ckpt_path = None  # or Lightning warns that the test names another
        # Each process named the folder by its own clock; the files are in that of the first.
        folder = Path(trainer.strategy.broadcast(str(folder)))
        path = saved_checkpoint(folder)
        if path is not None and trainer.is_global_zero and data.control is None:
            _calibrate(path, data, trainer.strategy.root_device)
        trainer.strategy.barrier()
        if not run.test:
            return folder, {}
        (figures,) = trainer.test(task, datamodule=data, ckpt_path=path and str(path))
        return folder, {name.removeprefix("test_"): value for name, value in figures.items()}


def _set_batch_size(
    task: VQATask,
    data: VQADataModule,
    trainer: Trainer,
    config: dict[str, Any],
    checkpoint: Checkpoint | None,
) -> None:
    """Train with the largest batches that fit; a continued run with those it had."""
    if checkpoint is None:
        size, why = find_batch_size(task, data, trainer)
    else:
        of_all = checkpoint.about.get("training", {}).get("data.images_per_batch x processes", 0)
        size = of_all // trainer.world_size or data.images_per_batch
        why = "that of the run that is continued"
    print(f"data.images_per_batch: {size} (run.find_batch_size: {why}).")
    data.images_per_batch = config["data"]["images_per_batch"] = size


def _calibrate(path: Path, data: VQADataModule, device: torch.device) -> None:
    try:
        found = calibrate(path, data, device, trust=True)
    except TooFewError as error:
        print(f"Not calibrated: {error}")
    else:
        print(f"Probabilities: {found.about}; `vlm report {path.parent.parent}` says how good.")


def saved_checkpoint(folder: Path) -> Path | None:
    """A run's best checkpoint, else its last, else None."""
    paths = (folder / CHECKPOINTS / name for name in (BEST, LAST))
    return next((path for path in paths if path.exists()), None)


def run_config(
    task: VQATask, data: VQADataModule, run: RunOptions, options: dict[str, Any]
) -> dict[str, Any]:
    """The configuration with which the command line makes the same run: `vlm test -c` reads it.
    Objects among the trainer's options, such as callbacks, are left out.

    Raises:
        ConfigError: a part, optimiser or schedule that no configuration can describe.
    """
    trainer = {}
    for name, value in (DEFAULTS | options).items():
        try:
            trainer[name] = plain(value)
        except ValueError:
            continue
    try:
        parts = {name: plain(getattr(task.model, name)) for name in PARTS}
        model = {
            name: plain(getattr(task, name))
            for name in ("optimizer", "schedule", "tuning", "distillation")
        }
        dataset = plain(data.dataset)
        batches = {n: plain(value) for n, value in data.arguments.items() if n != "dataset"}
    except ValueError as error:
        raise ConfigError(str(error)) from error
    for part, names in LINKED.items():
        for name in names:
            parts[part]["init_args"].pop(name, None)
    return {
        "seed_everything": task.seed,
        "dataset": dataset,
        "data": batches,
        "model": parts | model,
        "trainer": trainer,
        "run": asdict(run),
    }
