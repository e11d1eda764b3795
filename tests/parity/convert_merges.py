"""The merges of the BLOCK repository (arXiv 1902.00038): its parameters in our modules.

There, x0 is the question and x1 the image; our merges take x, the image, first.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from golden import Converted, Golden, Tensors, copy_linear
from torch import Tensor, nn

from vlm.fusion import (
    MCB,
    MFB,
    MFH,
    MLB,
    Block,
    BlockTucker,
    ConcatMLP,
    GlimpseAttention,
    Merge,
    Mutan,
    Product,
    Sum,
    Tucker,
    record_attention,
)
from vlm.fusion.merges.cores import LowRankCores


def merge_from(arguments: Mapping[str, Any], parameters: Tensors, prefix: str = "") -> Merge:
    """Build our merge with the reference's parameters; its first input is y, its second x."""
    kind = arguments.get("type") or arguments["cls"]
    own = {k.removeprefix(prefix): v for k, v in parameters.items() if k.startswith(prefix)}
    return MERGES[kind](arguments, own)


def widths(arguments: Mapping[str, Any]) -> tuple[int, int, int]:
    y_dim, x_dim = arguments["input_dims"]
    return x_dim, y_dim, arguments["output_dim"]


def activations(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "input_activation": arguments.get("activ_input", "relu") or "identity",
        "output_activation": arguments.get("activ_output", "relu") or "identity",
        "normalize": arguments.get("normalize", False),
    }


def copy_projections(merge: nn.Module, parameters: Tensors, shared: bool = False) -> None:
    copy_linear(merge.y_projection, parameters, "linear0")
    if not shared:
        copy_linear(merge.x_projection, parameters, "linear1")
    copy_linear(merge.out_projection, parameters, "linear_out")


def linear_sum(arguments: Mapping[str, Any], parameters: Tensors) -> Sum:
    merge = Sum(*widths(arguments), arguments["mm_dim"], **activations(arguments))
    copy_projections(merge, parameters)
    return merge


def mlb(arguments: Mapping[str, Any], parameters: Tensors) -> MLB:
    merge = MLB(*widths(arguments), arguments["mm_dim"], **activations(arguments))
    copy_projections(merge, parameters)
    return merge


def concat_mlp(arguments: Mapping[str, Any], parameters: Tensors) -> ConcatMLP:
    x_dim, y_dim, out_dim = widths(arguments)
    merge = ConcatMLP(x_dim, y_dim, out_dim, arguments["dimensions"], arguments["activation"])
    first = parameters["mlp.linears.0.weight"]  # [question, image]
    merge.y_projection.weight.data.copy_(first[:, :y_dim])
    merge.x_projection.weight.data.copy_(first[:, y_dim:])
    merge.x_projection.bias.data.copy_(parameters["mlp.linears.0.bias"])
    later = [layer for layer in merge.layers if isinstance(layer, nn.Linear)]
    for number, layer in enumerate(later, start=1):
        copy_linear(layer, parameters, f"mlp.linears.{number}")
    return merge


def mcb(arguments: Mapping[str, Any], parameters: Tensors) -> MCB:
    output = arguments["activ_output"] or "identity"
    # The reference leaves out the paper's normalisation.
    merge = MCB(*widths(arguments), arguments["mm_dim"], output, normalize=False)
    for ours, theirs in (("y", "sketch1"), ("x", "sketch2")):
        getattr(merge, f"{ours}_bucket").copy_(parameters[f"mcb.{theirs}.h"])
        getattr(merge, f"{ours}_sign").copy_(parameters[f"mcb.{theirs}.s"])
    copy_linear(merge.out_projection, parameters, "linear_out")
    return merge


def tucker(arguments: Mapping[str, Any], parameters: Tensors) -> Tucker:
    hidden, normalize = arguments["mm_dim"], arguments.get("normalize", False)
    merge = Tucker(*widths(arguments), hidden, normalize)
    # `shared` has no effect in the reference: it always has two separate projections.
    copy_projections(merge, parameters)
    copy_full_core(merge.core, 0, parameters, "bilinear")
    return merge


def mutan(arguments: Mapping[str, Any], parameters: Tensors) -> Mutan:
    shared = arguments.get("shared", False)
    merge = Mutan(
        *widths(arguments),
        arguments["mm_dim"],
        arguments["rank"],
        shared,
        arguments.get("normalize", False),
    )
    copy_projections(merge, parameters, shared)
    copy_map(merge.core, 0, parameters, "merge_linear{}", shared)
    return merge


def mfb(arguments: Mapping[str, Any], parameters: Tensors) -> MFB:
    merge = MFB(
        *widths(arguments), arguments["mm_dim"], arguments["factor"], **activations(arguments)
    )
    copy_linear(merge.block.y_projections[0], parameters, "linear0")
    copy_linear(merge.block.x_projections[0], parameters, "linear1")
    copy_linear(merge.out_projection, parameters, "linear_out")
    return merge


def mfh(arguments: Mapping[str, Any], parameters: Tensors) -> MFH:
    merge = MFH(
        *widths(arguments), arguments["mm_dim"], arguments["factor"], 2, **activations(arguments)
    )
    for stage in range(2):
        copy_linear(merge.blocks.y_projections[stage], parameters, f"linear0_{stage}")
        copy_linear(merge.blocks.x_projections[stage], parameters, f"linear1_{stage}")
    copy_linear(merge.out_projection, parameters, "linear_out")
    return merge


def block_tucker(arguments: Mapping[str, Any], parameters: Tensors) -> BlockTucker:
    merge = BlockTucker(
        *widths(arguments),
        arguments["mm_dim"],
        arguments["chunks"],
        arguments.get("pos_norm", "before_cat"),
    )
    copy_projections(merge, parameters)
    for number, (cores, chunk) in enumerate(numbered_chunks(merge.core)):
        copy_full_core(cores, chunk, parameters, f"bilinears.{number}")
    return merge


def block(arguments: Mapping[str, Any], parameters: Tensors) -> Block:
    shared = arguments.get("shared", False)
    merge = Block(
        *widths(arguments),
        arguments["mm_dim"],
        arguments["chunks"],
        arguments["rank"],
        shared,
        arguments.get("pos_norm", "before_cat"),
    )
    copy_projections(merge, parameters, shared)
    for number, (cores, chunk) in enumerate(numbered_chunks(merge.core)):
        copy_map(cores, chunk, parameters, f"merge_linears{{}}.{number}", shared)
    return merge


def numbered_chunks(core: nn.Module) -> list[tuple[nn.Module, int]]:
    """List all chunks in order, as the group that computes each and its index there."""
    return [(g, i) for g in core.groups for i in range(len(next(g.parameters())))]


def copy_full_core(cores: nn.Module, chunk: int, parameters: Tensors, name: str) -> None:
    core: Tensor = parameters[f"{name}.weight"]  # (k, i of x0 = our y, j of x1 = our x)
    cores.weight.data[chunk].copy_(core.permute(1, 2, 0).flatten(1))
    cores.bias.data[chunk].copy_(parameters[f"{name}.bias"])


def copy_map(cores: LowRankCores, chunk: int, parameters: Tensors, name: str, shared: bool) -> None:
    """Copy `name`, with {} replaced by 0 (question, our y) and 1 (image, our x)."""
    for number, ours in ((0, cores.y_map), *(() if shared else ((1, cores.x_map),))):
        ours.weight.data[chunk].copy_(parameters[f"{name.format(number)}.weight"].mT)
        ours.bias.data[chunk].copy_(parameters[f"{name.format(number)}.bias"])


def block_attention(golden: Golden) -> Converted:
    arguments, parameters = golden.hyperparameters, golden.parameters
    question_dim, image_dim = arguments["fusion"]["input_dims"]
    glimpses = arguments["mlp_glimpses"] or arguments["fusion"]["output_dim"]
    mlp = bool(arguments["mlp_glimpses"])
    mlp_dim = len(parameters["linear0.weight"]) if mlp else None

    def score(x_dim: int, y_dim: int, out_dim: int = 0) -> Merge:
        return merge_from(arguments["fusion"], parameters, "fusion.")

    # The reference ends with the attended regions, so our last merge is unused.
    fusion = GlimpseAttention(image_dim, question_dim, score, Product, glimpses, mlp_dim)
    if mlp:
        copy_linear(fusion.perceptron[0], parameters, "linear0")
        copy_linear(fusion.perceptron[2], parameters, "linear1")
    fusion.merge = First(fusion.merge.x_dim, fusion.merge.y_dim, fusion.merge.x_dim)
    fusion.out_dim = fusion.merge.x_dim

    def run(inputs: Tensors) -> Tensors:
        with record_attention(fusion) as maps:
            pooled = fusion(inputs["v"], inputs["q"]).pooled
        return {"y": pooled, "att": maps["attention"][0].mT}

    return Converted(fusion, run)


class First(Merge):
    """A merge that returns the attended regions unchanged."""

    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        return x


def openvqa_butd_tda(golden: Golden) -> Converted:
    weights, parameters = golden.effective, golden.parameters
    hidden, both = weights["v_att.nonlinear.mlp.1.weight"].shape
    image_dim = len(weights["v_att.linear_v.weight"])
    text_dim, out_dim = both - image_dim, len(weights["q_net.mlp.0.weight"])
    fusion = GlimpseAttention(
        image_dim,
        text_dim,
        partial(ConcatMLP, hidden_dims=(hidden,), activation="elu"),
        partial(Product, out_dim=out_dim, activation="elu"),
        glimpses=1,
    )
    # Its two successive linear maps are one of ours.
    of_image, of_text = weights["v_att.nonlinear.mlp.1.weight"].split((image_dim, text_dim), 1)
    score = fusion.score
    score.x_projection.weight.data.copy_(of_image @ weights["v_att.linear_v.weight"])
    score.y_projection.weight.data.copy_(of_text @ weights["v_att.linear_q.weight"])
    score.x_projection.bias.data.copy_(
        parameters["v_att.nonlinear.mlp.1.bias"]
        + of_image @ parameters["v_att.linear_v.bias"]
        + of_text @ parameters["v_att.linear_q.bias"]
    )
    merged = {**parameters, **weights}
    copy_linear(score.layers[-1], merged, "v_att.linear")
    copy_linear(fusion.merge.x_projection, merged, "v_net.mlp.0")
    copy_linear(fusion.merge.y_projection, merged, "q_net.mlp.0")

    def run(inputs: Tensors) -> Tensors:
        with record_attention(fusion) as maps:
            pooled = fusion(inputs["v"], inputs["q"]).pooled
        return {"y": pooled, "att": maps["attention"][0].mT}

    return Converted(fusion, run)


MERGES = {
    "linear_sum": linear_sum,
    "cat_mlp": concat_mlp,
    "mcb": mcb,
    "mlb": mlb,
    "tucker": tucker,
    "mutan": mutan,
    "mfb": mfb,
    "mfh": mfh,
    "block_tucker": block_tucker,
    "block": block,
    "LinearSum": linear_sum,
    "ConcatMLP": concat_mlp,
    "MCB": mcb,
    "MLB": mlb,
    "Tucker": tucker,
    "Mutan": mutan,
    "MFB": mfb,
    "MFH": mfh,
    "BlockTucker": block_tucker,
    "Block": block,
}


def convert(golden: Golden) -> Converted:
    merge = merge_from(golden.hyperparameters, golden.parameters)
    return Converted(merge, lambda inputs: {"y": merge(inputs["x1"], inputs["x0"])})


CONVERTERS = {
    "block_attention": block_attention,
    "openvqa_butd_tda": openvqa_butd_tda,
} | {
    f"block_{name}": convert
    for name in (
        "linear_sum",
        "concat_mlp",
        "mcb",
        "mlb",
        "tucker",
        "mutan",
        "mfb",
        "mfh",
        "block_tucker",
        "block",
    )
}
