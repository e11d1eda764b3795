"""FSDP2: parameters, gradients and the optimiser's state divided over the processes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning.pytorch.strategies import Strategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from vlm.checkpoint.file import read_checkpoint_file
from vlm.model import VQAModel


def shard(model: VQAModel, mesh: DeviceMesh) -> None:
    """Divide a model in place: by the repeated blocks of the encoders, the fusion, and the rest.

    A block's parameters are gathered just before it runs, so memory holds one block whole.

    Raises:
        ValueError: a strategy that divides tensors too.
    """
    if mesh["tensor_parallel"].size() > 1:
        raise ValueError(
            f"trainer.strategy: got tensor_parallel_size={mesh['tensor_parallel'].size()}; "
            f"expected 1, and data_parallel_size=the number of processes: only data are "
            f"divided here."
        )
    if isinstance(model, FSDPModule):  # fit, then test
        return
    for parameter in model.parameters():
        # Convolutions in the channels-last order of `ConvNet` cannot be divided.
        parameter.data = parameter.data.contiguous()
    data = mesh["data_parallel"]
    for encoder in (model.image_encoder, model.text_encoder):
        for block in repeated_blocks(encoder):
            fully_shard(block, mesh=data)
    fully_shard(model.fusion, mesh=data)
    fully_shard(model, mesh=data)


def expect_states(task: nn.Module, strategy: Strategy) -> None:
    """Let a strategy read a checkpoint that lacks the optimiser's state of parameters which were
    not trained yet when it was written: for the reading they need no gradient.
    """
    load = strategy.load_checkpoint

    @wraps(load)
    def load_checkpoint(checkpoint_path: str | Path, *args: Any, **options: Any) -> dict[str, Any]:
        (optimizer,) = read_checkpoint_file(Path(checkpoint_path))["optimizer_states"]
        # Lightning stores the states by the number of the parameter in the task.
        for number, parameter in enumerate(task.parameters()):
            # No state at all: an optimiser that keeps none.
            if optimizer["state"] and number not in optimizer["state"]:
                parameter.requires_grad_(False)
        return load(checkpoint_path, *args, **options)

    # Not by `trainer.ckpt_path`, which Lightning sets after `configure_optimizers` here.
    strategy.load_checkpoint = load_checkpoint  # type: ignore[method-assign]  # of this one


def share_buffers(model: VQAModel) -> None:
    """Give all processes the running statistics of the first, which are those of a checkpoint.

    DDP does this with every batch; FSDP2 leaves each process its own, and its own evaluation.
    """
    for buffer in model.buffers():
        dist.broadcast(buffer, src=0)


def repeated_blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost layers that come several times: a transformer's blocks, a CNN's stages."""
    for child in module.children():
        rows = list(child.children()) if isinstance(child, (nn.ModuleList, nn.Sequential)) else []
        alike = len(rows) > 1 and len({type(row) for row in rows}) == 1
        if alike and all(list(row.children()) for row in rows):
            yield from rows
        else:
            yield from repeated_blocks(child)
