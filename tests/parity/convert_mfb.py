"""MFB and MFH co-attention of openvqa.

openvqa divides by one norm over all regions and channels, ours by one norm per vector
(`JointlyNormalized` follows openvqa). It masks nothing.
"""

from __future__ import annotations

import torch
from golden import Converted, Converter, Golden, Tensors, copy_linear
from torch import Tensor, nn

from vlm.core.features import Features
from vlm.fusion import MFH, MFBCoAttention, record_attention
from vlm.fusion.merges.low_rank import FactorizedBlocks
from vlm.fusion.mfb_co_attention import PatchGlimpses, WordGlimpses


class JointlyNormalized(nn.Module):
    """Our blocks with openvqa's normalisation over all positions of a row at once."""

    def __init__(self, blocks: FactorizedBlocks) -> None:
        super().__init__()
        blocks.normalize = False
        self.blocks = blocks

    def prepare(self, x: Tensor) -> list[Tensor]:
        return self.blocks.prepare(x)

    def merge(self, factors: list[Tensor], y: Tensor) -> Tensor:
        normalized = []
        for z in self.blocks.merge(factors, y).chunk(len(factors), -1):
            roots = z.sign() * z.abs().sqrt()
            normalized.append(nn.functional.normalize(roots.flatten(1)).view_as(z))
        return torch.cat(normalized, -1)


def openvqa_mfb_block(golden: Golden) -> Converted:
    """One block; a second-order block is the second in a chain and receives `exp_prev`."""
    sizes = golden.hyperparameters
    image_dim, text_dim = sizes["img_feat_size"], sizes["ques_feat_size"]
    hidden_dim, factor = sizes["config"]["MFB_O"], sizes["config"]["MFB_K"]
    wide = hidden_dim * factor
    second = not sizes["is_first"]

    def blocks(hidden_dim: int, factor: int) -> FactorizedBlocks:
        made = FactorizedBlocks(
            image_dim + second * wide, text_dim, hidden_dim, factor, 1 + second, "identity",
            normalize=False, dropout=0.0,
        )  # fmt: skip
        for layer in (*made.x_projections, *made.y_projections):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer, name in ((made.x_projections[-1], "proj_i"), (made.y_projections[-1], "proj_q")):
            weight, bias = (golden.parameters[f"{name}.{kind}"] for kind in ("weight", "bias"))
            layer.weight.data[:, : weight.shape[1]] = weight
            layer.bias.data[:] = bias
        if second:  # the first block: exp_prev * 1
            made.x_projections[0].weight.data[:, image_dim:] = torch.eye(wide)
            made.y_projections[0].bias.data[:] = 1
        return made

    # Groups of one give the product before the sum.
    pooled, expanded = JointlyNormalized(blocks(hidden_dim, factor)), blocks(wide, 1)

    def run(inputs: Tensors) -> Tensors:
        image = inputs["img"]
        if second:
            image = torch.cat((image, inputs["exp_prev"]), -1)
        z, exp = (
            blocks.merge(blocks.prepare(image), inputs["ques"]) for blocks in (pooled, expanded)
        )
        return {"z": z[..., -hidden_dim:], "exp": exp[..., -wide:]}

    return Converted(nn.ModuleList((pooled, expanded)), run)


def openvqa_mfb_coatt(golden: Golden) -> Converted:
    sizes, reference = golden.hyperparameters["config"], golden.parameters
    image_dim = sizes["FEAT_SIZE"][sizes["DATASET"]]["FRCN_FEAT_SIZE"][1]
    text_dim, bilinear_dim, factor = sizes["LSTM_OUT_SIZE"], sizes["MFB_O"], sizes["MFB_K"]
    hidden_dim, order = sizes["HIDDEN_SIZE"], 1 + sizes["HIGH_ORDER"]
    image_glimpses, text_glimpses = sizes["I_GLIMPSES"], sizes["Q_GLIMPSES"]
    question_dim, out_dim = text_glimpses * text_dim, order * bilinear_dim

    module = MFBCoAttention(image_dim, text_dim, out_dim)
    # The reference sets each of these sizes separately.
    module.words = WordGlimpses(text_dim, hidden_dim, text_glimpses)
    module.patches = PatchGlimpses(
        image_dim, question_dim, bilinear_dim, hidden_dim, factor, image_glimpses, dropout=0.0
    )
    module.merge = MFH(
        image_glimpses * image_dim, question_dim, out_dim, bilinear_dim, factor, order
    )

    # The score biases are the same for all tokens and cancel in the softmax.
    copy_linear(module.words.score[0], reference, "q_att.mlp.fc.linear")
    copy_linear(module.words.score[2], reference, "q_att.mlp.linear")
    copy_blocks(module.patches.merge.block, reference, ["i_att.mfb"])
    module.patches.merge.block = JointlyNormalized(module.patches.merge.block)
    copy_linear(module.patches.merge.out_projection, reference, "i_att.mlp.fc.linear")
    copy_linear(module.patches.score, reference, "i_att.mlp.linear")
    copy_blocks(module.merge.blocks, reference, ["mfh1", "mfh2"] if order == 2 else ["mfb"])
    nn.init.eye_(module.merge.out_projection.weight)  # the reference ends before it
    nn.init.zeros_(module.merge.out_projection.bias)

    def run(inputs: Tensors) -> Tensors:
        image, text = (
            Features(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool), tokens.mean(1))
            for tokens in (inputs["img"], inputs["ques"])
        )
        with record_attention(module) as maps:
            fused = module(image, text)
        return {"z": fused.pooled, "i_att": maps["patches"][0].mT}

    return Converted(module, run)


def copy_blocks(blocks: FactorizedBlocks, reference: Tensors, names: list[str]) -> None:
    for number, block in enumerate(names):
        copy_linear(blocks.x_projections[number], reference, f"{block}.proj_i")
        copy_linear(blocks.y_projections[number], reference, f"{block}.proj_q")


CONVERTERS: dict[str, Converter] = {
    "openvqa_mfb_block": openvqa_mfb_block,
    "openvqa_mfb_coatt": openvqa_mfb_coatt,
}
