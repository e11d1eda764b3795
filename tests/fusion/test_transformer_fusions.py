"""MCAN, LXMERT, MergedAttention and SingleStream equal their papers' formulas.

The formulas are written for one question and one image at a time, without masks.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from vlm.core.features import Features
from vlm.core.lora import LoRA, add_lora, merge_lora
from vlm.fusion import (
    LXMERT,
    MCAN,
    Attention,
    AttentionalReduction,
    Fusion,
    GatedCrossAttention,
    MergedAttention,
    QFormer,
    SingleStream,
    record_attention,
)
from vlm.fusion.transformer import AddNorm, PostNormFeedForward

WORDS, PATCHES = (2, 5, 4), (7, 3, 1)
SIZES = {"out_dim": 6, "num_layers": 2, "num_heads": 3, "feedforward_dim": 17}


def features(dim: int, counts: tuple[int, ...]) -> Features:
    mask = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
    tokens = torch.randn(*mask.shape, dim, dtype=torch.float64)
    return Features(tokens, mask)


def prepared(fusion: Fusion) -> Fusion:
    """Use double precision, evaluation mode, and weights large enough to matter."""
    fusion = fusion.double().eval()
    for parameter in fusion.parameters():
        nn.init.normal_(parameter, std=0.5)
    return fusion


@pytest.fixture
def inputs() -> tuple[Features, Features]:
    torch.manual_seed(0)
    return features(13, PATCHES), features(11, WORDS)


def weights(part: Attention, query: Tensor, context: Tensor) -> Tensor:
    """(N, dim), (M, dim) -> (heads, N, M)."""
    q = part.query(query).chunk(part.num_heads, -1)
    k = part.key_value(context).chunk(2, -1)[0].chunk(part.num_heads, -1)
    return torch.stack(
        [(a @ b.T / math.sqrt(a.shape[-1])).softmax(-1) for a, b in zip(q, k, strict=True)]
    )


def attention(part: Attention, query: Tensor, context: Tensor) -> Tensor:
    v = part.key_value(context).chunk(2, -1)[1].chunk(part.num_heads, -1)
    return part.out(
        torch.cat([a @ b for a, b in zip(weights(part, query, context), v, strict=True)], -1)
    )


def normed(part: AddNorm, x: Tensor, branch: Tensor) -> Tensor:
    x = x + branch
    centred = x - x.mean(-1, keepdim=True)
    deviation = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return centred / deviation * part.norm.weight + part.norm.bias


def feedforward(part: PostNormFeedForward, x: Tensor, activation: Callable) -> Tensor:
    return normed(part.add_norm, x, part.down(activation(part.up(x))))


def mcan(fusion: MCAN, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    y, x = fusion.image_projection(image), fusion.text_projection(text)
    questions = []
    for layer in fusion.co_attention.words_layers:
        x = normed(layer.attention_norm, x, attention(layer.attention, x, x))
        x = feedforward(layer.feedforward, x, torch.relu)
        questions.append(x)
    for layer, own in zip(fusion.co_attention.patches_layers, questions, strict=True):
        guide = own if fusion.co_attention.cascade == "stacking" else questions[-1]
        y = normed(layer.attention_norm, y, attention(layer.attention, y, y))
        y = normed(layer.guided_norm, y, attention(layer.guided_attention, y, guide))
        y = feedforward(layer.feedforward, y, torch.relu)
    joint = torch.zeros((), dtype=torch.float64)
    tokens = []
    for part, side in ((fusion.words_reduction, x), (fusion.patches_reduction, y)):
        hidden, out = part.score[0], part.score[-1]
        shares = (torch.relu(hidden(side)) @ out.weight.T).softmax(0)  # (N, 1)
        joint = joint + part.merge((shares * side).sum(0))
        tokens.append(part.merge(side))
    return torch.cat(tokens), F.layer_norm(joint, joint.shape, fusion.norm.weight, fusion.norm.bias)


def cross_modality(fusion: LXMERT, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    p, w = fusion.image_projection(image), fusion.text_projection(text)
    for layer in fusion.layers:
        w, p = (
            normed(layer.words_cross_norm, w, attention(layer.words_to_patches, w, p)),
            normed(layer.patches_cross_norm, p, attention(layer.patches_to_words, p, w)),
        )
        w = normed(layer.words_self_norm, w, attention(layer.words_self, w, w))
        p = normed(layer.patches_self_norm, p, attention(layer.patches_self, p, p))
        w = feedforward(layer.words_feedforward, w, F.gelu)
        p = feedforward(layer.patches_feedforward, p, F.gelu)
    pooled = fusion.words_pool(w.mean(0)) * fusion.patches_pool(p.amax(0))
    return torch.cat((w, p)), pooled


def joined(fusion: MergedAttention | SingleStream, image: Tensor, text: Tensor) -> Tensor:
    part = fusion.embedding
    words = text @ part.text_projection.weight.T + part.word_type
    return torch.cat((words, image @ part.image_projection.weight.T + part.patch_type))


def merged(fusion: MergedAttention, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    x = joined(fusion, image, text)
    for layer in fusion.layers:
        x = normed(layer.attention_norm, x, attention(layer.attention, x, x))
        x = feedforward(layer.feedforward, x, F.gelu)
    words, patches = x.split((len(text), len(image)))
    return x, fusion.pool(torch.cat((words.mean(0), patches.mean(0)))).tanh()


def single_stream(fusion: SingleStream, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    x = torch.cat((fusion.class_token[None], joined(fusion, image, text)))
    for block in fusion.encoder.blocks:
        a = block.norm(x)
        x = x + attention(block.attention, a, a)
        norm, up, _, _, down, _ = block.feedforward
        x = x + down(F.gelu(up(norm(x))))
    x = fusion.encoder.norm(x)
    return x[1:], fusion.pool[0](x[0]).tanh()


CASES = {
    "encoder_decoder": (mcan, lambda: MCAN(13, 11, 17, dim=6, num_layers=2, num_heads=3)),
    "stacking": (
        mcan,
        lambda: MCAN(13, 11, 17, dim=6, num_layers=2, num_heads=3, cascade="stacking"),
    ),
    "cross_modality": (cross_modality, lambda: LXMERT(13, 11, **SIZES)),
    "merged": (merged, lambda: MergedAttention(13, 11, **SIZES)),
    "single_stream": (single_stream, lambda: SingleStream(13, 11, **SIZES)),
}


@pytest.mark.parametrize("case", CASES)
def test_formula(case: str, inputs: tuple[Features, Features]) -> None:
    formula, make = CASES[case]
    image, text = inputs
    fusion = prepared(make())
    fused = fusion(image, text)
    for row in range(len(WORDS)):
        tokens, pooled = formula(
            fusion, image.tokens[row, : PATCHES[row]], text.tokens[row, : WORDS[row]]
        )
        got = fused.tokens[row][fused.mask[row]]
        torch.testing.assert_close(fused.pooled[row], pooled, rtol=0, atol=1e-12)
        torch.testing.assert_close(got, tokens, rtol=0, atol=1e-12)


def test_reduction_by_hand() -> None:
    """Scores are ln 3 and 0, negated for the second glimpse; the third token is padding."""
    reduction = AttentionalReduction(2, 4, hidden_dim=1, glimpses=2)
    with torch.no_grad():
        reduction.score[0].weight.copy_(torch.tensor([[1.0, 0.0]]))
        reduction.score[0].bias.zero_()
        reduction.score[-1].weight.copy_(math.log(3) * torch.tensor([[1.0], [-1.0]]))
        reduction.merge.weight.copy_(torch.eye(4))
        reduction.merge.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 1.0]))
    tokens = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]]])
    got, shares = reduction.reduce(tokens, torch.tensor([[True, True, False]]))
    torch.testing.assert_close(got, torch.tensor([[0.75, 0.25, 0.25, 1.75]]))
    torch.testing.assert_close(shares, torch.tensor([[[0.75, 0.25, 0], [0.25, 0.75, 0]]]))


@pytest.mark.parametrize("glimpses", [1, 3])
def test_each_is_the_reduction_of_one_token(glimpses: int) -> None:
    torch.manual_seed(0)
    reduction = AttentionalReduction(6, 5, 7, glimpses).double()
    tokens = torch.randn(2, 4, 6, dtype=torch.float64)
    alone = reduction(tokens.flatten(0, 1)[:, None], torch.ones(8, 1, dtype=torch.bool))
    torch.testing.assert_close(reduction.each(tokens).flatten(0, 1), alone, rtol=0, atol=1e-14)


def test_reduction_of_nothing_is_the_bias() -> None:
    """The reference instead spreads its attention evenly over the padding."""
    reduction = AttentionalReduction(6, 5, 7)
    got = reduction(torch.randn(2, 4, 6), torch.zeros(2, 4, dtype=torch.bool))
    torch.testing.assert_close(got, reduction.merge.bias.expand(2, -1), rtol=0, atol=0)


def test_mcan_normalises_by_the_biased_deviation(inputs: tuple[Features, Features]) -> None:
    """The reference uses the unbiased one; `nn.LayerNorm` follows the paper and is faster."""
    pooled = (
        MCAN(13, 11, out_dim=17, dim=6, num_layers=1, num_heads=3).double().eval()(*inputs).pooled
    )
    torch.testing.assert_close(
        pooled.std(-1, correction=0), torch.ones(3).double(), rtol=1e-2, atol=0
    )


def test_directions_have_their_own_weights() -> None:
    """LXMERT shares one cross-attention between directions; ours, like ViLBERT's, do not."""
    layer = LXMERT(13, 11, **SIZES).layers[0]
    ours, theirs = layer.words_to_patches.parameters(), layer.patches_to_words.parameters()
    assert not {id(p) for p in ours} & {id(p) for p in theirs}


def test_mcan_maps(inputs: tuple[Features, Features]) -> None:
    """Each real patch's weights sum to one over the words; the glimpse's over the patches."""
    fusion = prepared(MCAN(13, 11, 17, dim=6, num_layers=2, num_heads=3))
    with record_attention(fusion) as maps:
        fusion(*inputs)
    guided = [f"co_attention.patches_layers.{n}.guided_attention" for n in range(2)]
    assert set(maps) == {*guided, "patches_reduction"}
    real = inputs[0].mask.double()
    for name in guided:
        sums = maps[name][0].sum(2)  # (B, H, P)
        torch.testing.assert_close(sums, real[:, None].expand_as(sums))
    (glimpse,) = maps["patches_reduction"]
    torch.testing.assert_close(glimpse.sum(-1), torch.ones(3, 1, dtype=torch.float64))


@pytest.mark.parametrize("cls", [MergedAttention, SingleStream])
def test_joint_maps_are_the_words_view_of_the_patches(
    cls: type[MergedAttention | SingleStream], inputs: tuple[Features, Features]
) -> None:
    image, text = inputs
    fusion = prepared(cls(13, 11, **SIZES))
    with record_attention(fusion) as maps:
        fusion(image, text)
    row = 1
    x = joined(fusion, image.tokens[row, : PATCHES[row]], text.tokens[row, : WORDS[row]])
    if isinstance(fusion, SingleStream):
        first = fusion.encoder.blocks[0]
        x = first.norm(torch.cat((fusion.class_token[None], x)))
        (got,) = maps["encoder.blocks.0.attention"]
    else:
        first = fusion.layers[0]
        (got,) = maps["layers.0.attention"]
    wanted = weights(first.attention, x, x)[:, -PATCHES[row] - WORDS[row] : -PATCHES[row]]
    wanted = wanted[..., -PATCHES[row] :]
    torch.testing.assert_close(got[row, :, : WORDS[row], : PATCHES[row]], wanted)
    assert (got[row, :, : WORDS[row]].sum(-1) < 1).all()
    assert got.shape == (3, 3, max(WORDS), max(PATCHES))


def count(make: Callable[[], nn.Module]) -> int:
    with torch.device("meta"):  # no memory is allocated for the papers' sizes
        return sum(parameter.numel() for parameter in make().parameters())


def test_parameters_of_mcan() -> None:
    i, t, e, d, n = 2048, 300, 1024, 512, 6
    layers = n * (28 * d * d + 32 * d)
    assert layers == 44_138_496
    reductions = 2 * (d * d + 2 * d + (d + 1) * e)
    wanted = (i + t + 2) * d + layers + reductions + 2 * e
    assert count(lambda: MCAN(i, t, e, d, n, 8)) == wanted
    assert count(lambda: MCAN(i, t, e, d, n, 8, "stacking")) == wanted


def test_parameters_of_the_others() -> None:
    i, t, d, f = 2048, 300, 768, 3072
    both = 16 * d * d + 30 * d + 4 * d * f + 2 * f
    wanted = (i + t + 2) * d + 5 * both + 2 * (d * d + d)
    assert count(lambda: LXMERT(i, t, d, 5, 12, f)) == wanted
    block = 4 * d * d + 9 * d + 2 * d * f + f
    assert block == 7_087_872  # of ViT-B, of BERT-base
    wanted = (i + t + 2) * d + 12 * block + 2 * d * d + d
    assert count(lambda: MergedAttention(i, t, d, 12, 12, f)) == wanted
    wanted = (i + t + 3) * d + 12 * block + 2 * d + d * d + d
    assert count(lambda: SingleStream(i, t, d, 12, 12, f)) == wanted


@pytest.mark.parametrize("cls", [LXMERT, MergedAttention, SingleStream])
def test_wrong_arguments(cls: type[Fusion]) -> None:
    with pytest.raises(ValueError, match=r"num_heads: got 3, which does not divide out_dim=14"):
        cls(13, 11, out_dim=14, num_heads=3)
    with pytest.raises(ValueError, match=r"num_layers: got 0; expected a positive integer"):
        cls(13, 11, out_dim=6, num_heads=3, num_layers=0)
    with pytest.raises(ValueError, match=r"feedforward_dim: got 1.5; expected a positive integer"):
        cls(13, 11, out_dim=6, num_heads=3, feedforward_dim=1.5)


def test_wrong_arguments_of_mcan() -> None:
    with pytest.raises(ValueError, match=r"num_heads: got 3, which does not divide dim=14"):
        MCAN(13, 11, dim=14, num_heads=3)
    with pytest.raises(ValueError, match=r"num_layers: got 0; expected a positive integer"):
        MCAN(13, 11, dim=6, num_heads=3, num_layers=0)
    with pytest.raises(
        ValueError, match=r"cascade: got 'stack'; expected one of encoder_decoder, stacking"
    ):
        MCAN(13, 11, dim=6, num_heads=3, cascade="stack")
    with pytest.raises(ValueError, match=r"glimpses: got 0; expected a positive integer"):
        AttentionalReduction(6, 5, 7, glimpses=0)


def test_lora_corrects_the_tokens_of_mcan_too() -> None:
    fusion = MCAN(8, 6, 12, dim=8, num_heads=2).eval()
    add_lora(fusion, LoRA(layers=["merge"]))
    for name, parameter in fusion.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    image, text = torch.randn(2, 9, 8), torch.randn(2, 5, 6)
    before = fusion(image, text)
    merge_lora(fusion)
    assert_close(fusion(image, text).tokens, before.tokens)


@pytest.mark.parametrize("cls", [QFormer, GatedCrossAttention])
def test_heads_that_do_not_divide_name_the_argument(cls: type) -> None:
    with pytest.raises(ValueError, match="num_heads: got 3, which does not divide out_dim=16"):
        cls(8, 6, 16, num_heads=3)


def test_a_dropout_of_everything_is_refused() -> None:
    with pytest.raises(ValueError, match=r"dropout: got 1\.5; expected a share"):
        Attention(8, 8, 2, dropout=1.5)
