"""The layers of a part, from its input to its output, found by the names of its parameters."""

from __future__ import annotations

import re

from torch import nn

_ADAPTER = re.compile(r"\.(base_layer|(lora_\w+)\.\w+)(?=\.|$)")
"""What peft puts into the names of a layer's parameters (`vlm.core.lora`)."""


def plain_name(name: str) -> str:
    """A parameter's name as it is without LoRA: `qkv.base_layer.weight` -> `qkv.weight`."""
    return _ADAPTER.sub("", name)


def numbered_layers(module: nn.Module) -> list[list[str]]:
    """Names of parameters, layer by layer: those that share their name up to its first number, such
    as `model.encoder.layer.3`.

    A number counts that names an entry of a list, or a block (`layer1`, `mixed_5b`), but not a
    single operation (`conv1`). What has none, or only biases and gains, belongs to the layer before
    it: embeddings are the first layer, and the last normalisation is in the last one. The module's
    parameters must be in the order of their use, as they are by custom.
    """
    layers: list[list[str]] = [[]]
    current = None
    for name, _ in module.named_parameters():
        number = _up_to_number(plain_name(name))
        if number is not None and number != current:
            layers.append([])
            current = number
        layers[-1].append(name)
    merged: list[list[str]] = []
    for names in filter(None, layers):
        if merged and all(module.get_parameter(name).ndim < 2 for name in names):
            merged[-1] += names
        else:
            merged.append(names)
    return merged


def _up_to_number(name: str) -> str | None:
    words = name.split(".")
    for place, word in enumerate(words[:-1]):
        single = place == len(words) - 2  # the next word is the parameter itself
        if word.isdigit() or (re.search(r"\d[a-z]?$", word) and not single):
            return ".".join(words[: place + 1])
    return None
