"""TorchMultimodal's fusions of pooled vectors, on the blocks of `vlm.fusion.modality`.

The references fuse any number of channels, in alphabetical order of their names. Our fusions take
two, but their building blocks take any number.
"""

from __future__ import annotations

from typing import Any

import torch
from golden import Converted, Golden, Tensors, copy_linear
from torch import Tensor, nn
from torch.nn import functional as F

from vlm.fusion import ConcatMLP
from vlm.fusion.merges.elementwise import ACTIVATIONS
from vlm.fusion.modality import POOLINGS, ModalitySet, WeightedSum, perceptron


def tmm_attention_fusion(golden: Golden) -> Converted:
    dims = channel_dims(golden)
    out_dim = golden.hyperparameters["encoding_projection_dim"] or min(dims.values())
    module = WeightedSum(tuple(dims.values()), out_dim)
    copy_linear(module.weights, golden.parameters, "attention.0")
    for channel, projection in zip(dims, module.projections, strict=True):
        copy_linear(projection, golden.parameters, f"encoding_projection.{channel}")
    return Converted(module, lambda inputs: {"y": module([inputs[channel] for channel in dims])})


def tmm_concat_fusion(golden: Golden) -> Converted:
    first, *rest = sorted(golden.inputs)
    x_dim = golden.inputs[first].shape[-1]
    y_dim = sum(golden.inputs[channel].shape[-1] for channel in rest)
    # Without a projection the reference gives the concatenation itself.
    weight = golden.parameters.get("projection.weight", torch.eye(x_dim + y_dim))
    module = ConcatMLP(x_dim, y_dim, out_dim=len(weight), hidden_dims=())
    x_weight, y_weight = weight.split((x_dim, y_dim), 1)
    bias = golden.parameters.get("projection.bias", torch.zeros(len(weight)))
    copy_linear(module.x_projection, {"x.weight": x_weight, "x.bias": bias}, "x")
    copy_linear(module.y_projection, {"y.weight": y_weight}, "y")

    def run(inputs: Tensors) -> Tensors:
        return {"y": module(inputs[first], torch.cat([inputs[channel] for channel in rest], -1))}

    return Converted(module, run)


def tmm_deepset_fusion(golden: Golden) -> Converted:
    options, dims = golden.hyperparameters, channel_dims(golden)
    elements = ModalitySet(
        tuple(dims.values()),
        min(dims.values()),
        "mean",
        options["attention_dim"] if options["apply_attention"] else None,
    )
    if options["use_auto_mapping"]:
        for channel, projection in zip(dims, elements.projections, strict=True):
            copy_linear(projection, golden.parameters, f"projections.{channel}")
    else:  # the reference takes the vectors as they are
        elements.projections = nn.ModuleList(nn.Identity() for _ in dims)
    if options["apply_attention"]:
        # The bias of the last layer is not copied: it shifts all logits alike.
        for index in (0, 2):
            copy_linear(elements.attention.weights[index], golden.parameters, f"attention.{index}")
    # The reference scales after the weights, along the features or along the channels.
    if options["modality_normalize"] or options["norm_factor"] != 2:
        scale = Scale(options["norm_factor"], -2 if options["modality_normalize"] else -1)
        elements.normalize = nn.Identity()
        elements.attention = nn.Sequential(elements.attention, scale)
    else:
        elements.attention = nn.Identity()  # the scaling takes each weight out again
    elements.pool = POOLINGS.get(options["pooling"], Pool(options["pooling"]))
    module = nn.Sequential(elements, reference_mlp(golden.parameters, options["mlp"]))
    return Converted(module, lambda inputs: {"y": module([inputs[channel] for channel in dims])})


def channel_dims(golden: Golden) -> dict[str, int]:
    return dict(sorted(golden.hyperparameters["channel_to_encoder_dim"].items()))


def reference_mlp(parameters: Tensors, options: dict[str, Any]) -> nn.Sequential:
    """Build our perceptron with the reference's layers, whose numbers have gaps."""
    mlp = perceptron(options["in_dim"], options["hidden_dims"], options["out_dim"], 0.0)
    prefix = "mlp.model."
    numbers = {int(name.split(".")[2]) for name in parameters if name.startswith(prefix)}
    layers = [layer for layer in mlp if isinstance(layer, nn.Linear)]
    for layer, number in zip(layers, sorted(numbers), strict=True):
        copy_linear(layer, parameters, f"{prefix}{number}")
    activation = ACTIVATIONS[options["activation"]]
    return nn.Sequential(*(activation() if isinstance(m, nn.ReLU) else m for m in mlp))


class Scale(nn.Module):
    """Divide by the p-norm along `dim`."""

    def __init__(self, p: float, dim: int) -> None:
        super().__init__()
        self.p, self.dim = p, dim

    def forward(self, elements: Tensor) -> Tensor:
        return F.normalize(elements, p=self.p, dim=self.dim)


class Pool:
    """A torch pooling function by name; an index that comes with the values is dropped."""

    def __init__(self, name: str) -> None:
        self.pool = getattr(torch, name)

    def __call__(self, elements: Tensor, dim: int) -> Tensor:
        pooled = self.pool(elements, dim)
        return pooled if isinstance(pooled, Tensor) else pooled.values


CONVERTERS = {
    "tmm_attention_fusion": tmm_attention_fusion,
    "tmm_concat_fusion": tmm_concat_fusion,
    "tmm_deepset_fusion": tmm_deepset_fusion,
}
