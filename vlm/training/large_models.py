"""Room and time for large models: checkpointed gradients, compiled parts, the batch size."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow.compute as pc
from lightning.pytorch import Trainer
from lightning.pytorch.tuner import Tuner
from torch import nn

from vlm.core.errors import ConfigError
from vlm.core.terminal import working
from vlm.core.validation import counted
from vlm.data.datamodule import VQADataModule
from vlm.model import VQAModel
from vlm.training.task import VQATask

TRIAL_STEPS = 3
"""Steps of training, and batches of validation, that a batch size has to stand."""


def checkpoint_gradients(model: VQAModel, parts: Sequence[str]) -> None:
    """Let parts keep only a few activations, and compute the others again in the backward pass.

    The models of timm, open_clip and transformers do it themselves and are asked to. Gradients stay
    the same, dropout included.

    Args:
        model: model to train.
        parts: names of its parts.

    Raises:
        ConfigError: a part with no model that can do this.
    """
    for name in parts:
        found = sum(_checkpointed(module) for module in getattr(model, name).modules())
        if not found:
            raise ConfigError(
                f"run.gradient_checkpointing: got {name}, a {type(getattr(model, name)).__name__}; "
                "expected a part with a model of timm, open_clip or transformers that can compute "
                "its activations again."
            )


def _checkpointed(module: nn.Module) -> bool:
    """Whether a module was told to compute its activations again."""
    if getattr(module, "supports_gradient_checkpointing", False):  # transformers
        # Called so from 5.23 on; the name before warns there.
        newest = getattr(module, "activation_checkpointing_enable", None)
        enable: Any = newest or module.gradient_checkpointing_enable
        # The other kind would lose the gradients where all inputs are frozen.
        enable({"use_reentrant": False})
        return True
    enable = getattr(module, "set_grad_checkpointing", None)  # timm, open_clip
    if enable is None:
        return False
    try:
        enable()
    except (AssertionError, NotImplementedError):  # timm: this architecture cannot
        return False
    return True


def compile_parts(model: VQAModel, parts: Sequence[str]) -> None:
    """Compile parts with `torch.compile`, for batches of any size; weights keep their names.

    Compiling takes place in the first steps and needs a C++ compiler.
    """
    for name in parts:
        getattr(model, name).compile(dynamic=True)


def find_batch_size(task: VQATask, data: VQADataModule, trainer: Trainer) -> tuple[int, str]:
    """The largest `images_per_batch` that fits in memory, found by doubling that of `data`.

    Lightning's Tuner tries each size for a few steps. The weights are what they were afterwards.

    Args:
        task: task to train.
        data: its data; not changed.
        trainer: trainer that will train it; gives the device and the precision.

    Returns:
        The size, and in words why it is no larger.

    Raises:
        ConfigError: several processes, which would not agree, or memory for no image at all.
    """
    if trainer.world_size > 1:
        raise ConfigError(
            f"run.find_batch_size: got {trainer.world_size} processes; expected one. Search with "
            "trainer.devices=1, then name data.images_per_batch."
        )
    trial = VQADataModule(**data.arguments)
    device = trainer.strategy.root_device
    images = pc.count_distinct(data.table("train")["image"]).as_py()
    with (
        tempfile.TemporaryDirectory(prefix="vlm-batch-size-") as folder,
        working("Trying batch sizes"),
        _quiet(),
    ):
        options: dict[str, Any] = {
            "accelerator": device.type,
            "devices": 1 if device.index is None else [device.index],
            "precision": trainer.precision,
            "default_root_dir": folder,
            "max_epochs": 1000,  # more than the few steps need
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
        }
        try:
            size = Tuner(Trainer(**options)).scale_batch_size(
                task,
                datamodule=trial,
                batch_arg_name="images_per_batch",
                init_val=data.images_per_batch,
                steps_per_trial=TRIAL_STEPS,
                max_val=images,
            )
        except ValueError as error:
            if trial.images_per_batch:
                raise
            raise ConfigError(
                "run.find_batch_size: memory is too small for a single image with its questions. "
                "Set data.questions_per_image, run.gradient_checkpointing or trainer.precision, or "
                "take a smaller model."
            ) from error
    assert size is not None
    # What reaches the limit was not tried; half of it was.
    if size >= images and size != data.images_per_batch:
        size = max(1, size // 2)
    if 2 * size < images:
        return size, f"{2 * size} need more memory than there is"
    return size, f"no more were tried, since there are {counted(images, 'training image')}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's account of each trial, which names a size that is not the one in use."""
    level = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(level)
