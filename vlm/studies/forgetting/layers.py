"""What the layers of an encoder give out, whatever library they are of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vlm.core.part import Part
from vlm.studies.forgetting.cka import gram


def layer_modules(encoder: Part, run: Callable[[], object]) -> list[str]:
    """The module whose output is that of its layer, for each layer from the input to the output.

    It is, of the modules that hold parameters of this layer alone (`Part.layer_names`), the last
    one to finish: a block as a whole, or the normalisation after a first convolution. A layer
    of bare parameters, such as positions, has no output of its own and no entry.

    Args:
        encoder: whose layers.
        run: calls it once.
    """
    layer = {name: n for n, names in enumerate(encoder.layer_names()) for name in names}
    last: dict[int, str] = {}
    hooks = []

    def finished(number: int, name: str) -> Callable[..., None]:
        def note(*_: object) -> None:
            last[number] = name

        return note

    for name, module in encoder.named_modules():
        held = {layer.get(f"{name}.{inner}") for inner, _ in module.named_parameters()}
        if name and len(held) == 1 and (number := held.pop()) is not None:
            hooks.append(module.register_forward_hook(finished(number, name)))
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return [last[number] for number in sorted(last)]


def layer_grams(
    encoder: Part,
    modules: list[str],
    run: Callable[[], Any],
    rows: Callable[[Tensor], Tensor],
) -> tuple[list[Tensor], Any]:
    """Run an encoder once.

    Args:
        encoder: to run.
        modules: of `layer_modules`.
        run: calls it on B examples.
        rows: from a module's output to the features of each example (B, ...).

    Returns:
        `gram` of each layer, and what `run` returned. No output of a layer is kept.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def note(_: nn.Module, __: object, output: Any) -> None:
            tensor = output if isinstance(output, Tensor) else output[0]
            found[name] = gram(rows(tensor))

        return note

    hooks = [encoder.get_submodule(n).register_forward_hook(keep(n)) for n in modules]
    try:
        with torch.inference_mode():
            returned = run()
    finally:
        for hook in hooks:
            hook.remove()
    return [found[name] for name in modules], returned
