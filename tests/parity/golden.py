"""Outputs of the authors' own operators, as stored under tests/golden/fusion.

One file per operator and variant: parameters, inputs, outputs, cotangents and input gradients in
float64, evaluation mode; beside it a JSON with the constructor's arguments and the formulas.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

FOLDER = Path(__file__).parents[1] / "golden" / "fusion"
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Golden:
    """One stored example of a reference operator.

    Attributes:
        name: "operator__variant", as the file is called.
        hyperparameters: the reference constructor's arguments.
        parameters: the reference's state dict: parameters and buffers by their own names.
        effective: weights after weight normalisation, by the name of the weight.
        inputs, outputs: by name; floating inputs are those with a gradient.
        cotangents: the loss is the sum over these of sum(output * cotangent).
        gradients: of that loss with respect to the inputs; empty where the reference has NaN.
    """

    name: str
    hyperparameters: dict[str, Any]
    parameters: Tensors
    effective: Tensors
    inputs: Tensors
    outputs: Tensors
    cotangents: Tensors
    gradients: Tensors

    @property
    def operator(self) -> str:
        return self.name.partition("__")[0]


@dataclass(frozen=True)
class Converted:
    """Our module with the reference's parameters, and how it is run on the reference's inputs.

    Attributes:
        module: float64, evaluation mode.
        run: from the reference's inputs to its outputs, by the reference's names. It must give
            every output that has a cotangent, and those attention maps that we can show.
    """

    module: nn.Module
    run: Callable[[Tensors], Tensors]


Converter = Callable[[Golden], Converted]


def read(path: Path) -> Golden:
    groups: dict[str, Tensors] = {}
    for key, tensor in load_file(path).items():
        group, _, name = key.partition(".")
        groups.setdefault(group, {})[name] = tensor
    about = json.loads(path.with_suffix(".json").read_text())
    return Golden(
        name=path.stem,
        hyperparameters=about.get("hyperparameters", {}),
        parameters=groups.get("param", {}) | groups.get("buffer", {}),
        effective=groups.get("eff", {}),
        inputs=groups["in"],
        outputs=groups["out"],
        cotangents=groups.get("cot", {}),
        gradients=groups.get("grad", {}),
    )


def copy_linear(target: nn.Linear, reference: Tensors, name: str) -> None:
    """Weight and, where the target has one, bias of the reference's `name`."""
    target.weight.data.copy_(reference[f"{name}.weight"])
    if target.bias is not None:
        bias = reference.get(f"{name}.bias")
        target.bias.data.zero_() if bias is None else target.bias.data.copy_(bias)
