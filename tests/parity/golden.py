"""Outputs of the authors' own operators, stored under tests/golden/fusion.

Each operator and variant has a file of parameters, inputs, outputs, cotangents and input gradients
in float64 and evaluation mode, and a JSON file with the constructor's arguments and the formulas.
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
    """A stored example of a reference operator.

    Attributes:
        name: "operator__variant", as in the file name.
        hyperparameters: arguments of the reference's constructor.
        parameters: the reference's state dict: parameters and buffers under their own names.
        effective: weights after weight normalisation, by the name of the weight.
        inputs, outputs: by name; floating-point inputs have a gradient.
        cotangents: the loss is the sum over these of sum(output * cotangent).
        gradients: of that loss with respect to the inputs; empty where the reference gives NaN.
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
    """Our module with the reference's parameters, and how to run it on the reference's inputs.

    Attributes:
        module: in float64 and evaluation mode.
        run: maps the reference's inputs to its outputs, both under the reference's names. It must
            return every output that has a cotangent, and the attention maps that ours can give.
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
    """Copy the weight of the reference's `name` and, where the target has one, the bias."""
    target.weight.data.copy_(reference[f"{name}.weight"])
    if target.bias is not None:
        bias = reference.get(f"{name}.bias")
        target.bias.data.zero_() if bias is None else target.bias.data.copy_(bias)
