"""`CrossModalAttention` equals `nn.MultiheadAttention`, and `CrossAttention` is built on it."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlm.core.features import Features, masked_max, masked_mean
from vlm.fusion import CrossAttention, CrossModalAttention, attend, record_attention

ROWS, QUERIES, CONTEXT, HEADS, QUERY_DIM, CONTEXT_DIM = 3, 5, 7, 2, 14, 11


def as_torch(ours: CrossModalAttention) -> nn.MultiheadAttention:
    """Build torch's module with our weights."""
    theirs = nn.MultiheadAttention(
        QUERY_DIM, HEADS, kdim=CONTEXT_DIM, vdim=CONTEXT_DIM, batch_first=True, dtype=torch.float64
    )
    with torch.no_grad():
        theirs.q_proj_weight.copy_(ours.query.weight)
        key, value = ours.key_value.weight.chunk(2)
        theirs.k_proj_weight.copy_(key)
        theirs.v_proj_weight.copy_(value)
        theirs.in_proj_bias.copy_(torch.cat((ours.query.bias, ours.key_value.bias)))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    return theirs


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    query = torch.randn(ROWS, QUERIES, QUERY_DIM, dtype=torch.float64)
    context = torch.randn(ROWS, CONTEXT, CONTEXT_DIM, dtype=torch.float64)
    mask = torch.arange(CONTEXT) < torch.tensor([7, 3, 1])[:, None]
    return query, context, mask


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("recorded", [True, False])
def test_equals_torch(inputs: tuple[Tensor, Tensor, Tensor], masked: bool, recorded: bool) -> None:
    query, context, mask = inputs
    if not masked:
        mask = torch.ones_like(mask)
    ours = CrossModalAttention(QUERY_DIM, CONTEXT_DIM, HEADS).double()
    theirs = as_torch(ours)
    wanted, weights = theirs(
        query,
        context,
        context,
        key_padding_mask=~mask,  # torch: True = ignore
        need_weights=recorded,
        average_attn_weights=False,
    )
    with record_attention(ours if recorded else nn.Identity()) as maps:
        got = ours(query, context, mask)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)
    if recorded:
        torch.testing.assert_close(maps[""][0], weights, rtol=0, atol=1e-12)
    else:
        assert maps == {}
        assert weights is None


@pytest.mark.parametrize("recorded", [True, False])
def test_gradients_equal_torch(inputs: tuple[Tensor, Tensor, Tensor], recorded: bool) -> None:
    query, context, mask = inputs
    ours = CrossModalAttention(QUERY_DIM, CONTEXT_DIM, HEADS).double()
    theirs = as_torch(ours)
    query, context = query.requires_grad_(), context.requires_grad_()
    output, _ = theirs(query, context, context, key_padding_mask=~mask, need_weights=recorded)
    wanted = torch.autograd.grad(output.square().sum(), (query, context))
    with record_attention(ours if recorded else nn.Identity()):
        got = torch.autograd.grad(ours(query, context, mask).square().sum(), (query, context))
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("recorded", [True, False])
def test_an_empty_context_gives_the_bias(
    inputs: tuple[Tensor, Tensor, Tensor], recorded: bool
) -> None:
    query, context, mask = inputs
    mask[1] = False
    attention = CrossModalAttention(QUERY_DIM, CONTEXT_DIM, HEADS).double()
    with record_attention(attention if recorded else nn.Identity()) as maps:
        got = attention(query, context, mask)
    torch.testing.assert_close(got[1], attention.out.bias.expand(QUERIES, -1), rtol=0, atol=1e-15)
    if recorded:
        assert not maps[""][0][1].any()


def test_words_last_turns_the_map(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    query, context, mask = inputs
    torch.manual_seed(0)
    attention = CrossModalAttention(QUERY_DIM, CONTEXT_DIM, HEADS, words_last=True).double()
    with record_attention(attention) as maps:
        attention(query, context, mask)
    (weights,) = maps[""]
    assert weights.shape == (ROWS, HEADS, CONTEXT, QUERIES)
    torch.testing.assert_close(weights.sum(2), torch.ones_like(weights[:, :, 0]))


def test_query_mask_changes_only_the_map(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    query, context, mask = inputs
    attention = CrossModalAttention(QUERY_DIM, CONTEXT_DIM, HEADS).double()
    real = torch.arange(QUERIES) < torch.tensor([5, 2, 4])[:, None]
    with record_attention(attention) as maps:
        with_mask, without = (
            attention(query, context, mask, real),
            attention(query, context, mask),
        )
    torch.testing.assert_close(with_mask, without, rtol=0, atol=0)
    zeroed, whole = maps[""]
    torch.testing.assert_close(zeroed, whole * real[:, None, :, None], rtol=0, atol=0)
    assert whole[1, :, 2:].any()


def test_copies_do_not_record() -> None:
    attention = CrossModalAttention(QUERY_DIM, CONTEXT_DIM, HEADS)
    with record_attention(attention):
        copies = copy.deepcopy(attention), pickle.loads(pickle.dumps(attention))
    assert [made.recorder for made in copies] == [None, None]


def test_names_are_those_inside_a_wrapper(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    attention = CrossModalAttention(QUERY_DIM, CONTEXT_DIM, HEADS).double()
    layers = nn.ModuleDict({"first": attention})
    compiled = torch.compile(layers, backend="eager")
    wrapped = nn.DataParallel(layers, device_ids=[])
    for module in (layers, compiled, wrapped):
        with record_attention(module) as maps:
            for _ in range(12):  # when compiled, more than eight list lengths are an error
                attention(*inputs)
        assert {name: len(passes) for name, passes in maps.items()} == {"first": 12}


def test_many_passes_of_a_compiled_module(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    attention = CrossModalAttention(QUERY_DIM, CONTEXT_DIM, HEADS).double()
    compiled = torch.compile(attention, backend="eager", fullgraph=True)
    with record_attention(compiled) as maps:
        for _ in range(12):
            compiled(*inputs)
    assert len(maps[""]) == 12


def test_recording_does_not_overflow_in_half_precision() -> None:
    q = torch.full((1, 2, 64), 60.0, dtype=torch.float16)
    allowed = torch.ones(1, 1, 2, dtype=torch.bool)
    mixed, weights = attend(q, q, q, allowed, weights=True)
    assert mixed.isfinite().all()
    assert weights.tolist() == [[[0.5, 0.5]] * 2]


def test_dropout_only_in_training(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    query, context, mask = inputs
    attention = CrossModalAttention(QUERY_DIM, CONTEXT_DIM, HEADS, dropout=0.5).double()
    first, second = attention(query, context, mask), attention(query, context, mask)
    assert not torch.equal(first, second)
    attention.eval()
    first, second = attention(query, context, mask), attention(query, context, mask)
    assert torch.equal(first, second)


def test_recording_ends_with_the_block_even_after_an_error() -> None:
    attention = CrossModalAttention(QUERY_DIM, CONTEXT_DIM, HEADS)
    with pytest.raises(RuntimeError, match="inside"), record_attention(attention):
        raise RuntimeError("inside")
    assert attention.recorder is None


def test_blocks_nest(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    attention = CrossModalAttention(QUERY_DIM, CONTEXT_DIM, HEADS).double()
    with record_attention(attention) as outer:
        attention(*inputs)
        with record_attention(attention) as inner:
            attention(*inputs)
        attention(*inputs)
    assert (len(outer[""]), len(inner[""])) == (2, 1)


def test_heads_must_divide() -> None:
    with pytest.raises(ValueError, match=r"num_heads: got 3, which does not divide query_dim=14"):
        CrossModalAttention(14, 11, num_heads=3)


def test_cross_attention_against_torch_modules() -> None:
    """Two layers, recomputed with `nn.MultiheadAttention` and plain loops."""
    torch.manual_seed(0)
    fusion = CrossAttention(
        13, 11, out_dim=14, num_layers=2, num_heads=2, feedforward_dim=17
    ).double()
    patches_mask = torch.arange(7) < torch.tensor([7, 3, 1])[:, None]
    words_mask = torch.arange(5) < torch.tensor([2, 5, 4])[:, None]
    image = torch.randn(3, 7, 13, dtype=torch.float64)
    text = torch.randn(3, 5, 11, dtype=torch.float64)

    def attend(ours: CrossModalAttention, query: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        q, (k, v) = ours.query, ours.key_value.weight.chunk(2)
        output, _ = F.multi_head_attention_forward(
            query.transpose(0, 1),  # (N, B, D)
            context.transpose(0, 1),
            context.transpose(0, 1),
            14,
            2,
            torch.cat((q.weight, k, v)),
            torch.cat((q.bias, ours.key_value.bias)),
            None,
            None,
            False,
            0.0,
            ours.out.weight,
            ours.out.bias,
            key_padding_mask=~mask,
        )
        return output.transpose(0, 1)

    words, patches = fusion.text_projection(text), fusion.image_projection(image)
    for layer in fusion.layers:
        w, p = layer.words_norm(words), layer.patches_norm(patches)
        words = words + attend(layer.words_to_patches, w, p, patches_mask)
        patches = patches + attend(layer.patches_to_words, p, w, words_mask)
        words = words + layer.words_feedforward(words)
        patches = patches + layer.patches_feedforward(patches)
    question = fusion.words_pool(masked_mean(words, words_mask))
    picture = fusion.patches_pool(masked_max(patches, patches_mask))

    pooled = torch.zeros(3, 1, dtype=torch.float64)
    fused = fusion(
        Features(image, patches_mask, pooled.expand(-1, 13)),
        Features(text, words_mask, pooled.expand(-1, 11)),
    )
    torch.testing.assert_close(fused.pooled, question * picture, rtol=0, atol=1e-12)
    joint = torch.cat((words, patches), 1)
    torch.testing.assert_close(fused.tokens[fused.mask], joint[fused.mask], rtol=0, atol=1e-12)
