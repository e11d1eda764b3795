"""What a strategy of Lightning's lacks: it is refused, or added."""

from __future__ import annotations

import os
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import ModelParallelStrategy

from vlm.core.compat import forking_launcher, saves_pieces
from vlm.core.errors import ConfigError


def check_strategy(strategy: Any, callbacks: Any) -> None:
    """Check that FSDP2 is asked for nothing that it cannot do.

    Raises:
        ConfigError: a checkpoint in pieces, or averaged weights.
    """
    if not isinstance(strategy, ModelParallelStrategy):
        return
    if saves_pieces(strategy):
        raise ConfigError(
            "trainer.strategy: got save_distributed_checkpoint=true; expected false: a "
            "checkpoint of vlm is one file, which `vlm.load` reads."
        )
    for callback in as_list(callbacks):
        if isinstance(callback, WeightAveraging):
            # It copies the model, which is impossible if the model is divided.
            raise ConfigError(
                f"trainer.callbacks: got {type(callback).__name__} with ModelParallelStrategy; it "
                f"cannot average a model that is divided over processes. Leave it out, or take "
                f"trainer.strategy=ddp."
            )


def half_precision(precision: Any, strategy: Any, accelerator: str) -> MixedPrecision | None:
    """What makes `16-mixed` of the trainer's options fp16 where Lightning would not.

    On the CPU it takes bf16 in its place, and with FSDP2 it refuses; torch has gradient scalers for
    both.

    Returns:
        A plugin in the place of the option, or None where Lightning has its own.
    """
    cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())
    own = not (cpu or isinstance(strategy, ModelParallelStrategy))
    if own or str(precision) not in ("16-mixed", "16"):
        return None
    device = None if cpu else torch.accelerator.current_accelerator()
    return MixedPrecision("16-mixed", "cpu" if device is None else device.type)


def check_processes(trainer: Trainer, sync_batchnorm: bool) -> None:
    """Check that a launcher (torchrun, srun) has started as many processes as the trainer expects,
    and that Lightning starts separate programs, with checkpoints and exit codes of their own.

    Raises:
        ConfigError: they have not, or `sync_batchnorm` is on for CPUs.
    """
    if isinstance(trainer.strategy.launcher, forking_launcher()):
        raise ConfigError(
            "trainer.strategy: got one that forks or spawns its processes; expected one that "
            "starts programs, such as ddp."
        )
    if sync_batchnorm and trainer.world_size > 1 and trainer.strategy.root_device.type == "cpu":
        raise ConfigError(
            "trainer.sync_batchnorm: got true on CPUs; torch supports it on GPUs only."
        )
    asked = trainer.num_devices * trainer.num_nodes
    started = int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_STEP_NUM_TASKS") or 1)
    if started not in (1, asked):
        raise ConfigError(
            f"trainer.devices x trainer.num_nodes: got {asked}, and {started} "
            f"processes were started; expected the same. Each would train a model of its own."
        )
    if trainer.world_size != asked:
        raise ConfigError(
            f"trainer.devices x trainer.num_nodes: got {asked} in a SLURM job, and 1 process was "
            f"started; expected the same. Start them with srun and --ntasks-per-node={asked}."
        )
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if started > 1 and environment and not environment.creates_processes_externally:
        raise ConfigError(
            f"srun: got {started} processes in a job called bash or interactive, each of which "
            f"would start {asked}; expected another job name, or --ntasks-per-node=1."
        )


def as_list(options: Any) -> list[Any]:
    """One, several or none."""
    if options is None:
        return []
    return options if isinstance(options, list) else [options]
