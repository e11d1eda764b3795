"""Q-Former of BLIP-2; Perceiver resampler and gated cross-attention of IDEFICS (transformers)."""

from __future__ import annotations

import torch
from einops import rearrange
from golden import Converted, Converter, Golden, Tensors, copy_linear
from torch import Tensor, nn

from vlm.core.features import Features
from vlm.fusion import Attention, PerceiverResampler, QFormer, QueryAttention, record_attention
from vlm.fusion.perceiver import GatedLayer
from vlm.fusion.qformer import QFormerLayer

ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU}


def copy_norm(target: nn.LayerNorm | nn.RMSNorm, reference: Tensors, name: str, eps: float) -> None:
    """Copy a norm and set its epsilon: ours have torch's default, the references do not."""
    target.eps = eps
    target.weight.data.copy_(reference[f"{name}.weight"])
    if isinstance(target, nn.LayerNorm):
        target.bias.data.copy_(reference[f"{name}.bias"])


def linear(reference: Tensors, name: str) -> nn.Linear:
    """Build a linear map with the reference's widths and no bias."""
    weight = reference[f"{name}.weight"]
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    made.weight.data.copy_(weight)
    return made


def hf_blip2_qformer(golden: Golden) -> Converted:
    p, h = golden.parameters, golden.hyperparameters
    dim, heads, every = h["hidden_size"], h["num_attention_heads"], h["cross_attention_frequency"]
    queries, eps, hidden = h["query_length"], h["layer_norm_eps"], h["intermediate_size"]
    image_dim = h["encoder_hidden_size"]
    module = QFormer(image_dim, dim, dim, queries, h["num_hidden_layers"], heads, every)
    # Their hidden width is arbitrary; ours is four times the width.
    module.layers = nn.ModuleList(
        QFormerLayer(dim, heads, hidden, image_dim if layer.queries_to_patches else None, 0.0)
        for layer in module.layers
    )
    copy_norm(module.norm, p, "layernorm", eps)
    for i, layer in enumerate(module.layers):
        name = f"encoder.layer.{i}"
        copy_attention(layer.attention, layer.attention_norm, p, f"{name}.attention", eps)
        if layer.queries_to_patches is not None:
            copy_attention(
                layer.queries_to_patches, layer.patches_norm, p, f"{name}.crossattention", eps
            )
        sides = [(layer.queries_feedforward, layer.queries_norm, "_query")]
        if h["use_qformer_text_input"]:
            sides += [(layer.words_feedforward, layer.words_norm, "")]
        for feedforward, norm, side in sides:
            copy_linear(feedforward[0], p, f"{name}.intermediate{side}.dense")
            feedforward[1] = ACTIVATIONS[h["hidden_act"]]()
            copy_linear(feedforward[2], p, f"{name}.output{side}.dense")
            copy_norm(norm, p, f"{name}.output{side}.LayerNorm", eps)

    def run(inputs: Tensors) -> Tensors:
        """The reference's sequence is queries, then words; ours is words, then queries."""
        embeds, image = inputs["embeds"], inputs["image"]
        keep = inputs.get("token_keep", torch.ones(embeds.shape[:2], dtype=torch.bool))
        seen = inputs.get("image_keep", torch.ones(image.shape[:2], dtype=torch.bool))
        mask = torch.cat((keep[:, queries:], keep[:, :queries]), 1)
        features = Features(image, seen, image[:, 0])
        with record_attention(module) as maps:
            words, asked = module.encode(
                embeds[:, queries:], embeds[:, :queries], mask, *module.prepare(features)
            )
        outputs = {"sequence": torch.cat((asked, words), 1)}
        for name, (weights,) in maps.items():
            outputs[f"cross_att_{name.split('.')[1]}"] = weights.unflatten(1, (heads, queries))
        return outputs

    return Converted(module, run)


def copy_attention(
    target: Attention, norm: nn.LayerNorm, reference: Tensors, name: str, eps: float
) -> None:
    """Copy BERT's attention block: query, key, value and output projections, and the norm."""
    copy_linear(target.query, reference, f"{name}.attention.query")
    for kind in ("weight", "bias"):
        key, value = (reference[f"{name}.attention.{part}.{kind}"] for part in ("key", "value"))
        getattr(target.key_value, kind).data.copy_(torch.cat((key, value)))
    copy_linear(target.out, reference, f"{name}.output.dense")
    copy_norm(norm, reference, f"{name}.output.LayerNorm", eps)


class HeadNorm(nn.Module):
    """IDEFICS can normalise queries and keys per head, with one scale for all heads.

    The first `heads * width` channels are normalised; the rest (the values) are not.
    """

    def __init__(self, norm: nn.Module, heads: int) -> None:
        super().__init__()
        self.norm, self.heads = norm, heads

    def forward(self, x: Tensor) -> Tensor:
        count = self.heads * self.norm.weight.shape[0]
        each = self.norm(rearrange(x[..., :count], "b n (h d) -> b n h d", h=self.heads))
        return torch.cat((each.flatten(-2), x[..., count:]), -1)


def idefics_attention(
    made: Attention, reference: Tensors, heads: int, out: str, norms: dict[str, nn.Module]
) -> Attention:
    """Our attention with their projections (no bias, any width) and their extra norms."""
    made.num_heads = heads
    made.query = linear(reference, "q_proj")
    both = torch.cat((reference["k_proj.weight"], reference["v_proj.weight"]))
    made.key_value = linear({"both.weight": both}, "both")
    made.out = linear(reference, out)
    if norms:
        made.query = nn.Sequential(made.query, HeadNorm(norms["q"], heads))
        made.key_value = nn.Sequential(made.key_value, HeadNorm(norms["k"], heads))
    return made


def under(reference: Tensors, prefix: str) -> Tensors:
    return {n.removeprefix(prefix): t for n, t in reference.items() if n.startswith(prefix)}


def hf_idefics_perceiver(golden: Golden) -> Converted:
    p, h = golden.parameters, golden.hyperparameters
    dim, heads = h["embed_dim"], h["n_heads"]
    module = PerceiverResampler(dim, h["n_latents"], h["depth"], num_heads=1)
    module.latents.data.copy_(p["latents"])
    copy_norm(module.norm, p, "layer_norm", 1e-5)
    for i, layer in enumerate(module.layers):
        block = under(p, f"blocks.{i}.0.")
        copy_norm(layer.patches_norm, block, "context_layer_norm", 1e-5)
        copy_norm(layer.latents_norm, block, "latents_layer_norm", 1e-5)
        norms: dict[str, nn.Module] = {}
        if h["qk_layer_norms"]:
            norms = {side: nn.LayerNorm(h["head_dim"]) for side in "qk"}
            for side, norm in norms.items():
                copy_norm(norm, block, f"{side}_layer_norm", 1e-5)
        attention = QueryAttention(dim, dim, num_heads=1)
        layer.latents_to_patches = idefics_attention(attention, block, heads, "output_proj", norms)
        block = under(p, f"blocks.{i}.1.")
        copy_norm(layer.feedforward[0], block, "ln", 1e-5)
        layer.feedforward[1] = linear(block, "fc")
        layer.feedforward[2] = nn.ReLU()  # the paper squares it
        layer.feedforward[3] = linear(block, "c_proj")

    def run(inputs: Tensors) -> Tensors:
        context = inputs["context"]
        return {"y": module(context, torch.ones(context.shape[:2], dtype=torch.bool))}

    return Converted(module, run)


class GatedLinearUnit(nn.Module):
    """The feed-forward network of IDEFICS, taken from LLaMA."""

    def __init__(self, reference: Tensors, activation: str) -> None:
        super().__init__()
        self.gate, self.up, self.down = (
            linear(reference, f"{name}_proj") for name in ("gate", "up", "down")
        )
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.gate(x)) * self.up(x))


def hf_idefics_gated_xattn(golden: Golden) -> Converted:
    p, h = golden.parameters, golden.hyperparameters
    dim, heads, eps = h["hidden_size"], h["num_attention_heads"], h["rms_norm_eps"]

    def rms_norm(reference: Tensors, name: str) -> nn.RMSNorm:
        norm = nn.RMSNorm(reference[f"{name}.weight"].shape[0])
        copy_norm(norm, reference, name, eps)
        return norm

    module = GatedLayer(dim, num_heads=1, dropout=0.0, first_gate=0.0)
    block = under(p, "cross_attn.")
    norms: dict[str, nn.Module] = {}
    if h["qk_layer_norms"]:
        norms = {side: rms_norm(block, f"{side}_layer_norm") for side in "qk"}
    module.norm = rms_norm(p, "input_layernorm")
    idefics_attention(module.attention, block, heads, "o_proj", norms)
    module.feedforward = nn.Sequential(
        rms_norm(p, "post_attention_layernorm"),
        GatedLinearUnit(under(p, "mlp."), h["hidden_act"]),
    )
    # One number, as in the paper, or one for each channel: both broadcast.
    module.attention_gate = nn.Parameter(p["alpha_cross_attn"].clone())
    module.feedforward_gate = nn.Parameter(p["alpha_dense"].clone())

    def run(inputs: Tensors) -> Tensors:
        """Each word has its own mask in the reference, so each becomes its own row."""
        text, image = inputs["text"], inputs["image"]
        allow = inputs.get("allow", torch.ones(*text.shape[:2], image.shape[1], dtype=torch.bool))
        words = rearrange(text, "b l d -> (b l) 1 d")
        context = image.repeat_interleave(text.shape[1], 0)  # (B * L, P, D)
        context = module.attention.keys_and_values(context)
        y = module(words, context, rearrange(allow, "b l p -> (b l) p"))
        return {"y": rearrange(y, "(b l) 1 d -> b l d", b=text.shape[0])}

    return Converted(module, run)


CONVERTERS: dict[str, Converter] = {
    "hf_blip2_qformer": hf_blip2_qformer,
    "hf_idefics_gated_xattn": hf_idefics_gated_xattn,
    "hf_idefics_perceiver": hf_idefics_perceiver,
}
