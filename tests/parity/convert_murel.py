"""MuRel's pairwise module and cell (arXiv 1902.09487): its parameters in our modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from convert_merges import merge_from
from golden import Converted, Golden, Tensors
from torch import Tensor, nn

from vlm.fusion import Features, MuRel, Product
from vlm.fusion.murel import AGGREGATIONS, MuRelCell, PairwiseRelation


def murel_pairwise(golden: Golden) -> Converted:
    dim = golden.inputs["mm"].shape[-1]
    module = pairwise_from(golden.hyperparameters, golden.parameters, "", dim)

    def run(inputs: Tensors) -> Tensors:
        regions, boxes = inputs["mm"], inputs.get("coords")
        mask = torch.ones(regions.shape[:2], dtype=torch.bool)
        positions = module.positions(regions.new_zeros(1, 1, 4) if boxes is None else boxes)
        return {"y": module(regions, positions, mask)}

    return Converted(module, run)


def murel_cell(golden: Golden) -> Converted:
    options = golden.hyperparameters
    dim, text_dim = golden.inputs["mm"].shape[-1], golden.inputs["q"].shape[-1]
    module = MuRel(dim, text_dim, dim, options.get("steps", 1), Product, Product)
    module.cell = MuRelCell(
        merge_from(options["fusion"], golden.parameters, "fusion_module."),
        pairwise_from(options["pairwise"], golden.parameters, "pairwise_module.", dim)
        if options["pairwise"]
        else NoPairs(),
    )
    if not options["residual"]:
        module.cell.register_forward_hook(without_residual)
    module.merge = FirstOne()  # the stored operator ends before the question is merged again

    def run(inputs: Tensors) -> Tensors:
        regions = inputs["mm"]
        mask = torch.ones(regions.shape[:2], dtype=torch.bool)
        image = Features(regions, mask, regions.mean(1), inputs.get("coords"))
        fused = module(image, inputs["q"])
        outputs = {"y": fused.tokens, "pooled": fused.pooled}
        return {name: outputs[name] for name in golden.outputs}

    return Converted(module, run)


def pairwise_from(
    options: Mapping[str, Any], parameters: Tensors, prefix: str, dim: int
) -> PairwiseRelation:
    kind = options["agg"]["type"]
    pairwise = PairwiseRelation(dim, Product, kind if kind in AGGREGATIONS else "max")
    if kind not in AGGREGATIONS:
        pairwise.aggregate = lambda relations, mask: getattr(relations, kind)(-2)
    for ours, theirs in (("boxes_merge", "coord"), ("regions_merge", "feat")):
        arguments = options[f"fusion_{theirs}"]
        name = f"{prefix}f_{theirs}_module."
        made = merge_from(arguments, parameters, name) if arguments else Nothing()
        setattr(pairwise, ours, made)
    if not options["residual"]:
        pairwise.register_forward_hook(without_residual)
    return pairwise


def without_residual(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output - inputs[0]


class Nothing(nn.Module):
    """Adds nothing; replaces a merge that the reference is built without."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x.new_zeros(())


class NoPairs(nn.Module):
    """Replaces `PairwiseRelation` where the reference has none."""

    def positions(self, boxes: Tensor) -> Tensor:
        return boxes

    def forward(self, regions: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        return regions


class FirstOne(nn.Module):
    """Returns x unchanged; replaces a merge."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x


CONVERTERS = {"murel_pairwise": murel_pairwise, "murel_cell": murel_cell}
