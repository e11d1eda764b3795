"""The optimiser's groups of parameters: by learning rate, with weight decay and without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from vlm.training.finetuning.plan import Layer


def parameter_groups(
    model: nn.Module, layers: Sequence[Layer]
) -> dict[float, list[dict[str, Any]]]:
    """The trained parameters in groups for an optimiser, by the scale of their learning rate."""
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for layer in layers:
        for name in layer.names:
            key = layer.lr_scale, is_decayed(model, name)
            groups.setdefault(key, []).append(model.get_parameter(name))
    by_scale: dict[float, list[dict[str, Any]]] = {}
    for (scale, decayed), parameters in groups.items():
        group = {"params": parameters} | ({} if decayed else {"weight_decay": 0.0})
        by_scale.setdefault(scale, []).append(group)
    return by_scale


def is_decayed(model: nn.Module, name: str) -> bool:
    """Whether weight decay belongs on a parameter: on the matrices and kernels that inputs are
    multiplied by. Not on biases, gains of normalisations and other vectors, embeddings of words
    and positions, and learned tokens.
    """
    above, _, last = name.rpartition(".")
    if isinstance(model.get_submodule(above), (nn.Embedding, nn.EmbeddingBag)):
        return False
    return model.get_parameter(name).ndim > 1 and "weight" in last


def make_optimizer(
    make: Callable[[Any], Optimizer], model: nn.Module, layers: Sequence[Layer]
) -> Optimizer:
    """An optimiser of the trained parameters, with each layer's learning rate."""
    by_scale = parameter_groups(model, layers)
    optimizer = make([group for groups in by_scale.values() for group in groups])
    scales = [scale for scale, groups in by_scale.items() for _ in groups]
    for group, scale in zip(optimizer.param_groups, scales, strict=True):
        group["lr"] *= scale
    return optimizer
