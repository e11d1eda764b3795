"""The options of `fit`, for suggestions."""

from __future__ import annotations

import inspect

from lightning.pytorch import Trainer

from vlm.data.datamodule import VQADataModule
from vlm.model import PARTS
from vlm.training.finetuning.plan import PartTuning, Tuning
from vlm.training.run_dir import RunOptions
from vlm.training.task import VQATask


def option_names() -> list[str]:
    """Each with its place, such as `trainer.max_epochs`."""
    names = [
        "ckpt_path",
        "seed_everything",
        *(f"run.{name}" for name in RunOptions.__annotations__),
    ]
    names += [f"model.{name}" for name in inspect.signature(VQATask).parameters]
    names += [f"model.tuning.{name}" for name in inspect.signature(Tuning).parameters]
    settings = inspect.signature(PartTuning).parameters
    names += [f"model.tuning.{part}.{name}" for part in PARTS for name in settings]
    names += [f"data.{name}" for name in inspect.signature(VQADataModule).parameters]
    return names + [f"trainer.{name}" for name in inspect.signature(Trainer).parameters]
