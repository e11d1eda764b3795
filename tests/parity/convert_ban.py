"""Bilinear attention networks: Kim et al. (ban-vqa) and openvqa.

Weight normalisation is folded into plain weights. Their maps are (regions, words), ours (words,
patches). They mask all-zero regions and no words; our inputs come with masks.
"""

from __future__ import annotations

import torch
from golden import Converted, Converter, Golden, Tensors
from torch import Tensor, nn

from vlm.core.features import Features, masked_mean
from vlm.fusion import BAN, record_attention
from vlm.fusion.ban import BilinearAttention, BilinearPooling


def ban_bcnet(golden: Golden) -> Converted:
    """The bilinear connection: our logits or, if weights are given, our pooling."""
    sizes = golden.hyperparameters
    if sizes["method"] == "forward_with_weights":
        return pooling_alone(golden)
    rank, out = sizes["h_dim"] * sizes["k"], sizes["h_out"]
    reference = effective(golden)
    bias = torch.zeros(())
    if out is None:  # every product of the factors: one map for each
        out, small = rank, torch.eye(rank)
    elif "h_mat" in reference:
        small, bias = reference["h_mat"].flatten(0, 2), reference["h_bias"].view(-1)
    else:
        small, bias = reference["h_net.weight"], reference["h_net.bias"]
    module = BilinearAttention(sizes["v_dim"], sizes["q_dim"], rank, out)
    fill(module, reference, "", small)

    def run(inputs: Tensors) -> Tensors:
        # A bias for each map, which ours lack because it cancels in the softmax.
        logits = module.logits(inputs["q"], module.image_projection(inputs["v"]))
        logits = logits + bias.to(inputs["v"]).view(-1, 1, 1)
        y = logits.mT  # (B, G, N, T)
        return {"y": y.movedim(1, -1) if sizes["h_out"] is None else y}

    return Converted(module, run)


def pooling_alone(golden: Golden) -> Converted:
    sizes = golden.hyperparameters
    rank = sizes["h_dim"] * sizes["k"]
    module = BilinearPooling(sizes["v_dim"], sizes["q_dim"], rank, sizes["h_dim"])
    fill(module, effective(golden), "")
    # They stop before the projection P, at the sums of groups of k.
    module.out.weight.data.copy_(in_groups(torch.eye(sizes["h_dim"]), sizes["k"]))
    module.out.bias.data.zero_()
    return Converted(
        module, lambda x: {"y": module(x["q"], module.image_projection(x["v"]), x["w"].mT)}
    )


def ban_biattention(golden: Golden) -> Converted:
    sizes = golden.hyperparameters
    rank = sizes["z_dim"] * sizes["k"]
    module = BilinearAttention(sizes["x_dim"], sizes["y_dim"], rank, sizes["glimpse"])
    fill(module, effective(golden), "logits.")

    def run(inputs: Tensors) -> Tensors:
        regions, words = nonzero(inputs["v"]), everything(inputs["q"])
        if not sizes["v_mask"]:
            regions = everything(inputs["v"])
        projected = module.image_projection(inputs["v"])
        return {"att": module(inputs["q"], words, projected, regions)[0].mT}

    return Converted(module, run)


def ban_residual(golden: Golden) -> Converted:
    """All glimpses, without the counting branch."""
    sizes = golden.hyperparameters
    return network(golden, sizes["v_dim"], sizes["num_hid"], "v_att.logits.")


def openvqa_ban(golden: Golden) -> Converted:
    sizes = golden.hyperparameters["config"]
    return network(golden, sizes["IMG_FEAT_SIZE"], sizes["HIDDEN_SIZE"], "BiAtt.logits.")


def network(golden: Golden, image_dim: int, dim: int, logits: str) -> Converted:
    """`BAN` with words of the reference's width, and with its ranks."""
    reference = effective(golden)
    small = reference[f"{logits}h_mat"].flatten(0, 2)
    module = BAN(image_dim, dim, out_dim=dim, glimpses=len(small))
    nn.init.eye_(module.text_projection.weight)
    nn.init.zeros_(module.text_projection.bias)
    module.attention = BilinearAttention(image_dim, dim, small.shape[1], len(small))
    fill(module.attention, reference, logits)
    for i in range(len(small)):
        rank = layer(reference, f"b_net.{i}.v_net.", "bias").numel()
        module.poolings[i] = BilinearPooling(image_dim, dim, rank, dim)
        fill(module.poolings[i], reference, f"b_net.{i}.")
        out, projection = module.poolings[i].out, layer(reference, f"q_prj.{i}.", "weight")
        # It sums groups of ranks to the projected width.
        out.weight.data.copy_(in_groups(projection, rank // projection.shape[1]))
        out.bias.data.copy_(layer(reference, f"q_prj.{i}.", "bias"))

    def run(inputs: Tensors) -> Tensors:
        image, text = (
            Features(tokens, mask, masked_mean(tokens, mask))
            for tokens, mask in (
                (inputs["v"], nonzero(inputs["v"])),
                (inputs["q"], everything(inputs["q"])),
            )
        )
        with record_attention(module) as maps:
            fused = module(image, text)
        return {"q": fused.tokens, "q_sum": fused.pooled, "att": maps["attention"][0].mT}

    return Converted(module, run)


def effective(golden: Golden) -> Tensors:
    return golden.parameters | golden.effective


def fill(
    module: BilinearAttention | BilinearPooling,
    reference: Tensors,
    prefix: str,
    small: Tensor | None = None,
) -> None:
    """Copy both projections and, for maps, the small matrix h."""
    for target, name in ((module.image_projection, "v_net."), (module.text_projection, "q_net.")):
        target[0].weight.data.copy_(layer(reference, prefix + name, "weight"))
        target[0].bias.data.copy_(layer(reference, prefix + name, "bias"))
    if isinstance(module, BilinearAttention):
        small = reference[f"{prefix}h_mat"].flatten(0, 2) if small is None else small
        module.glimpses.data.copy_(small)


def layer(reference: Tensors, prefix: str, kind: str) -> Tensor:
    """Get the linear layer of a one-layer perceptron ("main.1" in ban-vqa, "mlp.1" in openvqa)."""
    (name,) = (n for n in reference if n.startswith(prefix) and n.endswith(f".1.{kind}"))
    return reference[name]


def in_groups(weight: Tensor, groups: int) -> Tensor:
    """Apply `weight` to sums of consecutive groups, by repeating each column for each member."""
    return weight.repeat_interleave(groups, 1)


def nonzero(tokens: Tensor) -> Tensor:
    return tokens.detach().ne(0).any(-1)


def everything(tokens: Tensor) -> Tensor:
    return torch.ones(tokens.shape[:2], dtype=torch.bool)


CONVERTERS: dict[str, Converter] = {
    "ban_bcnet": ban_bcnet,
    "ban_biattention": ban_biattention,
    "ban_residual": ban_residual,
    "openvqa_ban": openvqa_ban,
}
