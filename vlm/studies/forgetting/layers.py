"""The outputs of an encoder's layers, for encoders of any library."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vlm.core.part import Part
from vlm.studies.forgetting.cka import cka, gram


@dataclass(frozen=True)
class Retention:
    """CKA of each layer of an encoder by its module's name, from input to output."""

    cka: dict[str, float]

    @property
    def last(self) -> float:
        """CKA of the last layer."""
        return list(self.cka.values())[-1]

    @property
    def lowest(self) -> float:
        """The lowest CKA of all layers for which it is defined."""
        return min(self.cka.values(), key=lambda value: (math.isnan(value), value))


def layer_modules(encoder: Part, run: Callable[[], object]) -> list[str]:
    """The module that produces each layer's output, from input to output.

    Of the modules that hold only this layer's parameters (`Part.layer_names`), it is the last one
    to finish: a whole block, or the normalisation after a first convolution. A layer of bare
    parameters, such as positions, has no output of its own and no entry. `run` calls the encoder.
    """
    layer = {name: n for n, names in enumerate(encoder.layer_names()) for name in names}
    last: dict[int, str] = {}
    hooks = []

    def finished(number: int, name: str, *_: object) -> None:
        last[number] = name

    for name, module in encoder.named_modules():
        held = {layer.get(f"{name}.{inner}") for inner, _ in module.named_parameters()}
        if name and len(held) == 1 and (number := held.pop()) is not None:
            hooks.append(module.register_forward_hook(partial(finished, number, name)))
    _run(run, hooks)
    return [last[number] for number in sorted(last)]


def layer_grams(
    encoder: Part,
    modules: Sequence[str],
    run: Callable[[], Any],
    rows: Callable[[Tensor], Tensor] = lambda output: output,
) -> tuple[list[Tensor], Any]:
    """Run an encoder on B examples: `gram` of each module's output, and the result of `run`.

    `rows` maps an output to the features of each example (B, ...). The outputs are not stored.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str, _: nn.Module, __: object, output: Any) -> None:
        found[name] = gram(rows(output if isinstance(output, Tensor) else output[0]))

    hooks = [encoder.get_submodule(n).register_forward_hook(partial(keep, n)) for n in modules]
    returned = _run(run, hooks)
    return [found[name] for name in modules], returned


def layer_cka(
    modules: Sequence[str], before: Sequence[list[Tensor]], after: Sequence[list[Tensor]]
) -> dict[str, float]:
    """`cka` by layer, from the results of `layer_grams` for each batch."""
    layers = zip(modules, zip(*before, strict=True), zip(*after, strict=True), strict=True)
    return {name: cka(old, new) for name, old, new in layers}


def _run(run: Callable[[], Any], hooks: Sequence[torch.utils.hooks.RemovableHandle]) -> Any:
    """Call `run` without gradients, then remove the hooks."""
    try:
        with torch.inference_mode():
            return run()
    finally:
        for hook in hooks:
            hook.remove()
