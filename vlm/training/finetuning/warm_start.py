"""Parts that start from the weights of another run or of a shared model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from vlm.adapters.hub import locate, read_stored
from vlm.checkpoint.checkpoint import (
    Checkpoint,
    CheckpointError,
    build_stored,
    check_origin,
    load_weights,
)
from vlm.core.layers import plain_name
from vlm.core.lora import merge_lora
from vlm.core.part import build
from vlm.model import PARTS, VQAModel
from vlm.pretrained.weights import differences, misfit


def init_from(model: VQAModel, path: str, parts: Sequence[str] | None = None) -> None:
    """Give parts the weights of another run's or of a shared model's parts, in place.

    Corrections that the other run learned (LoRA) are added to its weights. The model's own start
    as nothing, so the model answers as the other does.

    Args:
        model: the new one, with or without LoRA.
        path: path of a checkpoint, of a run's folder or of a shared model's, the name of a model
            that comes with vlm, or hf:NAME.
        parts: names of the parts; all if None.

    Raises:
        CheckpointError: no good or no available checkpoint, or weights of a part that do not fit;
            nothing is changed then.
    """
    try:
        checkpoint = read_stored(
            locate(path, whole=False), trust=True
        )  # `check_origin` checks the classes
    except (OSError, ValueError) as error:
        raise CheckpointError(f"model.tuning.init_from: {error}") from error
    chosen = {part: getattr(model, part) for part in parts or PARTS}
    stored = {part: checkpoint.model[part] for part in chosen}
    check_origin(checkpoint._replace(model=stored), model.config)
    lines = []
    for part, module in chosen.items():
        wrong = _other_meaning(checkpoint.model[part], module.config)
        wrong += differences(
            _without_lora(module.state_dict()), _weights(checkpoint, part, merged=False)
        )
        lines += [f"{part}: {line}" for line in wrong]
    if lines:
        raise CheckpointError(
            f"{misfit(path, lines)}\nTo start other parts from it, name them in "
            f"model.tuning.init_parts."
        )
    for part, module in chosen.items():
        weights = _weights(checkpoint, part, merged=True)
        for name, value in _without_lora(module.state_dict()).items():
            value.copy_(weights[name])


def _other_meaning(stored: dict[str, Any], own: dict[str, Any]) -> list[str]:
    """What makes weights of the same shapes mean something else: other classes, words, answers."""
    if stored["class_path"] != own["class_path"]:
        return [f"{stored['class_path']} there, {own['class_path']} here"]
    there, here = stored["init_args"], own["init_args"]
    return [
        f"its {name} are others, or in another order, than here"
        for name in ("words", "answers", "tokenizer")
        if there.get(name) != here.get(name)
    ]


def _weights(checkpoint: Checkpoint, part: str, merged: bool) -> dict[str, Tensor]:
    """A part's weights by the names they have without LoRA, with its corrections if `merged`."""
    prefix = f"{part}."
    weights = {
        name.removeprefix(prefix): value
        for name, value in checkpoint.weights.items()
        if name.startswith(prefix)
    }
    config = checkpoint.model[part]
    if merged and "lora" in config:
        # Only of packages that the new model's part names too.
        module = build_stored(checkpoint, lambda: build(config, trust=True))
        load_weights(module, weights, str(checkpoint.path))
        merge_lora(module)
        return _without_lora(module.state_dict())
    return _without_lora(weights)


def _without_lora(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {plain_name(n): value for n, value in weights.items() if ".lora_" not in n}
