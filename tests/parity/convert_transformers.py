"""Transformers over words and patches: MCAN, LXMERT and ViLT.

MCAN divides by the unbiased deviation plus epsilon, and its masks are (B, 1, 1, N) with
True = padding. LXMERT shares one cross-attention between both directions; we copy it to each.
"""

from __future__ import annotations

import torch
from golden import Converted, Golden, Tensors, copy_linear
from torch import Tensor, nn

from vlm.core.features import Features, masked_mean
from vlm.fusion import MCAN, Attention, SingleStream
from vlm.fusion.lxmert import CrossModalityLayer
from vlm.fusion.mcan import AttentionalReduction, ModularCoAttention, PatchReduction
from vlm.fusion.transformer import PostNormFeedForward

ACTIVATIONS: dict[str, nn.Module] = {
    "gelu": nn.GELU(),
    "gelu_new": nn.GELU(approximate="tanh"),
    "relu": nn.ReLU(),
    "silu": nn.SiLU(),
}


class UnbiasedNorm(nn.Module):
    """MCAN's layer norm, with the divisor d - 1 and epsilon added to the deviation."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        deviation = x.std(-1, keepdim=True)
        return self.weight * (x - x.mean(-1, keepdim=True)) / (deviation + 1e-6) + self.bias


def use_unbiased_norms(module: nn.Module) -> None:
    for part in list(module.modules()):
        for name, child in part.named_children():
            if isinstance(child, nn.LayerNorm):
                setattr(part, name, UnbiasedNorm(child.normalized_shape[0]))


def mcan_attflat(golden: Golden) -> Converted:
    module = reduction(AttentionalReduction, golden.hyperparameters["config"])
    copy_reduction(module, golden.parameters, "")

    def run(inputs: Tensors) -> Tensors:
        y, shares = module.reduce(inputs["x"], real(inputs, "mask", inputs["x"]))
        return {"y": y, "att": shares.mT}

    return Converted(module, run)


def mcan_mca_ed(golden: Golden) -> Converted:
    module = co_attention(golden.hyperparameters["config"])
    use_unbiased_norms(module)
    copy_co_attention(module, golden.parameters, "")

    def run(inputs: Tensors) -> Tensors:
        words, patches = inputs["lang"], inputs["img"]
        words_mask, patches_mask = (
            real(inputs, "lang_mask", words),
            real(inputs, "img_mask", patches),
        )
        prepared = module.prepare(patches, patches_mask)
        words, patches = module(words, words_mask, prepared, patches_mask)
        return {"lang": words, "img": patches}

    return Converted(module, run)


def mcan_net(golden: Golden) -> Converted:
    """The complete network: a word embedding and an LSTM, our MCAN, and a classifier."""
    sizes, parameters = golden.hyperparameters["config"], golden.parameters
    dim, out_dim = sizes["HIDDEN_SIZE"], sizes["FLAT_OUT_SIZE"]
    fusion = MCAN(sizes["IMG_FEAT_SIZE"], dim, out_dim, dim, sizes["LAYER"], sizes["MULTI_HEAD"])
    # Our inner widths are the paper's multiples of dim; the reference's are arbitrary.
    fusion.co_attention = co_attention(sizes)
    fusion.words_reduction = reduction(AttentionalReduction, sizes)
    fusion.patches_reduction = reduction(PatchReduction, sizes)
    fusion.text_projection = nn.Identity()
    use_unbiased_norms(fusion)
    copy_linear(fusion.image_projection, parameters, "img_feat_linear")
    copy_co_attention(fusion.co_attention, parameters, "backbone.")
    copy_reduction(fusion.words_reduction, parameters, "attflat_lang.")
    copy_reduction(fusion.patches_reduction, parameters, "attflat_img.")
    copy_unbiased_norm(fusion.norm, parameters, "proj_norm")
    embedding = nn.Embedding(*parameters["embedding.weight"].shape)
    embedding.weight.data.copy_(parameters["embedding.weight"])
    lstm = nn.LSTM(embedding.embedding_dim, dim, batch_first=True)
    lstm.load_state_dict(below(parameters, "lstm."))
    classifier = nn.Linear(out_dim, golden.hyperparameters["answer_size"])
    copy_linear(classifier, parameters, "proj")
    module = nn.ModuleList([embedding, lstm, fusion, classifier])

    def run(inputs: Tensors) -> Tensors:
        words_mask, patches_mask = inputs["ques"] != 0, inputs["img"].ne(0).any(-1)
        words, _ = lstm(embedding(inputs["ques"]))  # over the padding too
        text = Features(words, words_mask, masked_mean(words, words_mask))
        pooled = masked_mean(inputs["img"], patches_mask)
        logits = classifier(fusion(Features(inputs["img"], patches_mask, pooled), text).pooled)
        return {"logits": logits, "prob": logits.sigmoid()}

    return Converted(module, run)


def hf_lxmert_xlayer(golden: Golden) -> Converted:
    sizes, parameters = golden.hyperparameters, golden.parameters
    module = CrossModalityLayer(
        sizes["hidden_size"], sizes["num_attention_heads"], sizes["intermediate_size"], dropout=0.0
    )
    for attention in (module.words_to_patches, module.patches_to_words):
        copy_bert_attention(
            attention, parameters, "visual_attention.att", "visual_attention.output"
        )
    for norm in (module.words_cross_norm, module.patches_cross_norm):
        copy_norm(norm.norm, parameters, "visual_attention.output.LayerNorm")
    for side, ours in (("lang", "words"), ("visn", "patches")):
        name = f"{side}_self_att"
        attention = module.get_submodule(f"{ours}_self")
        copy_bert_attention(attention, parameters, f"{name}.self", f"{name}.output")
        norm = module.get_submodule(f"{ours}_self_norm.norm")
        copy_norm(norm, parameters, f"{name}.output.LayerNorm")
        network = module.get_submodule(f"{ours}_feedforward")
        copy_feedforward(network, parameters, f"{side}_inter.dense", f"{side}_output.dense")
        copy_norm(network.add_norm.norm, parameters, f"{side}_output.LayerNorm")
        network.activation = ACTIVATIONS[sizes["hidden_act"]]

    def run(inputs: Tensors) -> Tensors:
        words, patches = inputs["lang"], inputs["img"]
        everything = [torch.ones(x.shape[:2], dtype=torch.bool) for x in (words, patches)]
        words_mask = inputs.get("lang_keep", everything[0])
        patches_mask = inputs.get("img_keep", everything[1])
        # Their map also covers padded words, for which a recorded map has zeros.
        _, seen = module.words_to_patches.attend(words, patches, patches_mask, weights=True)
        words, patches = module(words, words_mask, patches, patches_mask)
        return {"lang": words, "img": patches, "cross_att_lang_to_img": seen}

    return Converted(module, run)


def hf_vilt_encoder(golden: Golden) -> Converted:
    """Everything after the embeddings; the first token stands for the class token."""
    sizes, parameters = golden.hyperparameters, golden.parameters
    dim = sizes["hidden_size"]
    module = SingleStream(
        dim,
        dim,
        dim,
        sizes["num_hidden_layers"],
        sizes["num_attention_heads"],
        sizes["intermediate_size"],
    )
    for number, block in enumerate(module.encoder.blocks):
        name = f"encoder.layer.{number}"
        inner = f"{name}.attention.attention"
        copy_bert_attention(block.attention, parameters, inner, f"{name}.attention.output")
        copy_norm(block.norm, parameters, f"{name}.layernorm_before", sizes["layer_norm_eps"])
        norm, up, _, _, down, _ = block.feedforward
        copy_norm(norm, parameters, f"{name}.layernorm_after", sizes["layer_norm_eps"])
        copy_linear(up, parameters, f"{name}.intermediate.dense")
        copy_linear(down, parameters, f"{name}.output.dense")
        block.feedforward[2] = ACTIVATIONS[sizes["hidden_act"]]
    copy_norm(module.encoder.norm, parameters, "layernorm", sizes["layer_norm_eps"])
    copy_linear(module.pool[0], parameters, "pooler.dense")

    def run(inputs: Tensors) -> Tensors:
        tokens = inputs["tokens"]
        keep = inputs.get("keep", torch.ones(tokens.shape[:2], dtype=torch.bool))
        place = (keep, 1, sizes["text_len"])
        sequence = module.encoder(tokens, *place)
        outputs = {"sequence": sequence, "pooled": module.pool(sequence[:, 0])}
        for number, block in enumerate(module.encoder.blocks, 1):
            x = block.norm(tokens)
            # The full map; a recorded one covers only attention from words to patches.
            outputs[f"att_{number}"] = block.attention.attend(x, x, keep, weights=True)[1]
            outputs[f"hidden_{number}"] = tokens = block(tokens, *place)
        return outputs

    return Converted(module, run)


def co_attention(sizes: dict) -> ModularCoAttention:
    dim, layers, heads = sizes["HIDDEN_SIZE"], sizes["LAYER"], sizes["MULTI_HEAD"]
    return ModularCoAttention(dim, layers, heads, sizes["FF_SIZE"], "encoder_decoder", 0.0)


def reduction(cls: type[AttentionalReduction], sizes: dict) -> AttentionalReduction:
    return cls(
        sizes["HIDDEN_SIZE"], sizes["FLAT_OUT_SIZE"], sizes["FLAT_MLP_SIZE"], sizes["FLAT_GLIMPSES"]
    )


def copy_co_attention(module: ModularCoAttention, parameters: Tensors, prefix: str) -> None:
    for number, layer in enumerate(module.words_layers):
        name = f"{prefix}enc_list.{number}"
        copy_mcan_attention(layer.attention, parameters, f"{name}.mhatt")
        copy_unbiased_norm(layer.attention_norm.norm, parameters, f"{name}.norm1")
        copy_mcan_feedforward(layer.feedforward, parameters, name, "norm2")
    for number, layer in enumerate(module.patches_layers):
        name = f"{prefix}dec_list.{number}"
        copy_mcan_attention(layer.attention, parameters, f"{name}.mhatt1")
        copy_unbiased_norm(layer.attention_norm.norm, parameters, f"{name}.norm1")
        copy_mcan_attention(layer.guided_attention, parameters, f"{name}.mhatt2")
        copy_unbiased_norm(layer.guided_norm.norm, parameters, f"{name}.norm2")
        copy_mcan_feedforward(layer.feedforward, parameters, name, "norm3")


def copy_mcan_attention(target: Attention, parameters: Tensors, name: str) -> None:
    names = [f"{name}.linear_{part}" for part in ("q", "k", "v", "merge")]
    copy_attention(target, parameters, *names)


def copy_mcan_feedforward(
    target: PostNormFeedForward, parameters: Tensors, name: str, norm: str
) -> None:
    copy_feedforward(target, parameters, f"{name}.ffn.mlp.fc.linear", f"{name}.ffn.mlp.linear")
    copy_unbiased_norm(target.add_norm.norm, parameters, f"{name}.{norm}")


def copy_reduction(target: AttentionalReduction, parameters: Tensors, prefix: str) -> None:
    first, *_, last = target.score
    copy_linear(first, parameters, f"{prefix}mlp.fc.linear")
    copy_linear(last, parameters, f"{prefix}mlp.linear")  # their bias cancels in the softmax
    copy_linear(target.merge, parameters, f"{prefix}linear_merge")


def copy_bert_attention(target: Attention, parameters: Tensors, inner: str, outer: str) -> None:
    names = [f"{inner}.{part}" for part in ("query", "key", "value")]
    copy_attention(target, parameters, *names, f"{outer}.dense")


def copy_attention(
    target: Attention, parameters: Tensors, query: str, key: str, value: str, out: str
) -> None:
    copy_linear(target.query, parameters, query)
    copy_linear(target.out, parameters, out)
    parts = (key, value)
    both = {"both.weight": torch.cat([parameters[f"{part}.weight"] for part in parts])}
    if f"{key}.bias" in parameters:
        both["both.bias"] = torch.cat([parameters[f"{part}.bias"] for part in parts])
    copy_linear(target.key_value, both, "both")


def copy_feedforward(target: PostNormFeedForward, parameters: Tensors, up: str, down: str) -> None:
    copy_linear(target.up, parameters, up)
    copy_linear(target.down, parameters, down)


def copy_norm(target: nn.LayerNorm, parameters: Tensors, name: str, eps: float = 1e-12) -> None:
    target.load_state_dict(below(parameters, f"{name}."))
    target.eps = eps


def copy_unbiased_norm(target: nn.Module, parameters: Tensors, name: str) -> None:
    target.load_state_dict({"weight": parameters[f"{name}.a_2"], "bias": parameters[f"{name}.b_2"]})


def below(parameters: Tensors, prefix: str) -> Tensors:
    return {k.removeprefix(prefix): v for k, v in parameters.items() if k.startswith(prefix)}


def real(inputs: Tensors, name: str, tokens: Tensor) -> Tensor:
    """Turn their mask (B, 1, 1, N), True = padding, into ours (B, N); without one, all are real."""
    if name in inputs:
        return ~inputs[name][:, 0, 0]
    return torch.ones(tokens.shape[:2], dtype=torch.bool)


CONVERTERS = {
    "mcan_attflat": mcan_attflat,
    "mcan_mca_ed": mcan_mca_ed,
    "mcan_net": mcan_net,
    "hf_lxmert_xlayer": hf_lxmert_xlayer,
    "hf_vilt_encoder": hf_vilt_encoder,
}
