"""Where a model comes from: what a checkpoint keeps about its training."""

from __future__ import annotations

import hashlib
import inspect
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import WeightAveraging

from vlm.core.compat import averaging_settings
from vlm.core.part import Configured, factory_class
from vlm.core.version import __version__
from vlm.data.datamodule import VQADataModule
from vlm.datasets.mixture import Mixture
from vlm.datasets.table import digest_of, digest_of_rest
from vlm.training.fault_tolerance.checkpointing import RunCheckpoint

DATASET = ("seed", "vocabulary")
MIXTURE = ("weights", "temperature")
DATA = ("questions_per_image", "augment", "seed", "control")
COUNTS_OR_SHARES = ("limit_train_batches", "limit_val_batches", "val_check_interval")
TRAINER = (
    "max_epochs",
    "max_steps",
    "accumulate_grad_batches",
    "gradient_clip_val",
    "gradient_clip_algorithm",
    "precision",
    "check_val_every_n_epoch",
)
"""Attributes of the trainer that change what is trained, or which checkpoint is the best."""


def origin(task: Any, data: VQADataModule, trainer: Trainer) -> dict[str, Any]:
    """What a checkpoint keeps about the training that makes it, as plain data.

    Args:
        task: a `VQATask`, whose module imports this one.
        data, trainer: of the training.

    Raises:
        DataError: validation has no answers.
    """
    vocabulary = task.model.head.vocabulary
    return {
        "vocabulary": None
        if vocabulary is None
        # A mirror may have added answers to those of the data set.
        else data.dataset.describe_answers() | {"size": len(vocabulary), "hash": vocabulary.hash},
        "run": str(trainer.default_root_dir),
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "vlm": __version__,
        "torch": str(torch.__version__),
        "data": f"{type(data.dataset).__module__}.{type(data.dataset).__qualname__}",
        "training": facts(task, data, trainer),
    }


def facts(task: Any, data: VQADataModule, trainer: Trainer) -> dict[str, Any]:
    """What a training depends on beside its model: a run is continued with the same only.
    Arguments are those of `origin`."""
    table = data.table("train")
    arguments = DATASET + (MIXTURE if isinstance(data.dataset, Mixture) else ())
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # set later
    monitors = [c.monitor for c in callbacks if isinstance(c, RunCheckpoint)]
    return {
        "seed_everything": task.seed,
        "model.optimizer": plain(task.optimizer),
        "model.schedule": plain(task.schedule),
        "model.tuning": plain(task.tuning),
        "model.distillation": plain(task.distillation),
        "the teacher": None if task.teacher is None else f"digest {task.teacher.digest[:10]}",
        "dataset": _public_path(type(data.dataset)),
        **{f"dataset.{name}": plain(getattr(data.dataset, name)) for name in arguments},
        **{f"data.{name}": plain(getattr(data, name)) for name in DATA},
        "data.images_per_batch x processes": data.images_per_batch * trainer.world_size,
        "data.images.fast_jpeg": data.images.fast_jpeg,
        "streamed shards": _digest(data.streamed_shards()),
        "the training questions": f"{len(table):,} with the digest {digest_of(table)[:10]}",
        "the training images, choices and pairs": f"digest {digest_of_rest(table)[:10]}",
        "the validation questions": _validated(data),
        "averages of weights": [_settings(c) for c in callbacks if isinstance(c, WeightAveraging)],
        **({"run.monitor": monitors[0]} if monitors else {}),
        "run.matmul_precision": torch.get_float32_matmul_precision(),
        "trainer.min_epochs": trainer.min_epochs or None,  # a training makes one 0 of the other
        **{f"trainer.{name}": plain(getattr(trainer, name)) for name in TRAINER},
        # 1 is a batch, and 1.0 all of them. An interval of time is no attribute of the trainer.
        **{f"trainer.{name}": str(getattr(trainer, name, None)) for name in COUNTS_OR_SHARES},
        # The data take it from the trainer when they are set up.
        "trainer.overfit_batches": bool(getattr(trainer, "overfit_batches", 0)) or data.overfits,
    }


def _validated(data: VQADataModule) -> str | None:
    """The digest of the validation questions, which decide on the best checkpoint."""
    if not data.dataset.has("validation"):
        return None
    table = data.table("validation")
    return f"digest {digest_of(table)[:10]} {digest_of_rest(table)[:10]}"


def _digest(numbers: np.ndarray | None) -> str | None:
    return None if numbers is None else hashlib.sha256(numbers.tobytes()).hexdigest()[:10]


def plain(value: Any) -> Any:
    """Plain data, in the form of a configuration file, of what a training is made with.

    Args:
        value: plain data, paths, enumerations, dataclasses, configured objects, and classes,
            functions and `functools.partial` of classes that are given as factories. A class has
            all its arguments with defaults, since these may change.

    Raises:
        ValueError: an object of another kind.
    """
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (str, Path)):
        return str(getattr(value, "value", value))
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Configured):
        arguments = {name: plain(item) for name, item in value.arguments.items()}
        config = {"class_path": _public_path(value.made_as), "init_args": arguments}
        lora = getattr(value, "lora", None)
        return config if lora is None else config | {"lora": plain(lora)}
    if isinstance(value, FunctionType):
        return f"{value.__module__}.{value.__qualname__}"
    return _plain_factory(value)


def _plain_factory(factory: Callable[..., Any]) -> dict[str, Any]:
    cls = factory_class(factory)
    parameters = inspect.signature(cls).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    given = defaults | getattr(factory, "keywords", {})
    return {"class_path": _public_path(cls), "init_args": plain(given)}


def _public_path(cls: type) -> str:
    """The shortest path that a class is found under, as configurations name it."""
    names = cls.__module__.split(".")
    for end in range(1, len(names)):
        module = ".".join(names[:end])
        if getattr(sys.modules.get(module), cls.__name__, None) is cls:
            return f"{module}.{cls.__name__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def _settings(callback: WeightAveraging) -> dict[str, Any]:
    """What a callback was made with, from its attributes and the functions that it holds."""
    public = {
        name: value
        for name, value in vars(callback).items()
        if not name.startswith("_") and not callable(value)  # Lightning adds `log`
    }
    settings = {n: _inside(v) for n, v in (public | averaging_settings(callback)).items()}
    return {"class_path": _public_path(type(callback)), "init_args": settings}


def _inside(value: Any) -> Any:
    """Plain data of a setting; of a function its name and what it closes over."""
    if isinstance(value, FunctionType):
        cells = [_inside(cell.cell_contents) for cell in value.__closure__ or ()]
        return [value.__qualname__, *cells]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return getattr(value, "__qualname__", type(value).__qualname__)
