"""What of each part is trained, from when and how fast: the table at the start of a training."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from vlm.core.terminal import new_table
from vlm.data.features.frozen import sees_images
from vlm.model import PARTS
from vlm.training.finetuning.plan import Layer


def parts_table(task: Any, epochs: int | None, precision: str) -> Table:
    """A row for each part.

    Args:
        task: with its optimiser made, and the schedule not begun or at its start.
        epochs: of the training; None or -1 if steps end it.
        precision: of the trainer.
    """
    table = new_table(
        *("part", "class", "parameters", "trained", "when", "learning rate", "precision", "LoRA"),
        numbers=("parameters", "trained"),
        title="What is trained",
        note="Learning rates are those that the schedule multiplies.",
    )
    peak = _peak_rates(task)
    for part in PARTS:
        module = getattr(task.model, part)
        layers = [layer for layer in task.layers if layer.part == part]
        names = [name for layer in layers if _reached(layer, epochs) for name in layer.names]
        table.add_row(
            part.replace("_", " "),
            type(module).__name__,
            f"{sum(p.numel() for p in module.parameters()):,}",
            f"{sum(task.model.get_parameter(name).numel() for name in names):,}",
            _when(layers, epochs),
            _range([peak[name] for name in names]),
            precision if part != "image_encoder" else _precision(task, precision),
            "-" if module.lora is None else f"rank {module.lora.rank}",
        )
    return table


def _precision(task: Any, precision: str) -> str:
    """Of the image encoder: cached features have 32 bits."""
    if task.data.images.features is None:
        return precision
    some = sees_images(task.model.image_encoder, task.layers)
    return f"{precision}; 32, cached" if some else "32, cached"


def _peak_rates(task: Any) -> dict[str, float]:
    """Learning rate of each trained parameter, by its name."""
    names = {parameter: name for name, parameter in task.model.named_parameters()}
    return {
        names[parameter]: float(group.get("initial_lr", group["lr"]))
        for group in task.trainer.optimizers[0].param_groups
        for parameter in group["params"]
    }


def _when(layers: list[Layer], epochs: int | None) -> str:
    if not layers:
        return "never"
    starts = [layer.start for layer in layers]
    first, last = min(starts), max(starts)
    if first == last:
        return "always" if first == 0 else f"from epoch {first}"
    reached = sum(_reached(layer, epochs) for layer in layers)
    if reached == len(layers):
        return f"from epochs {first} to {last}, layer by layer"
    return f"from epoch {first}, {reached} of {len(layers)} layers by the end"


def _reached(layer: Layer, epochs: int | None) -> bool:
    return epochs is None or epochs < 0 or layer.start < epochs


def _range(rates: list[float]) -> str:
    if not rates:
        return "-"
    low, high = f"{min(rates):.3g}", f"{max(rates):.3g}"
    return low if low == high else f"{low} to {high}"
