"""`QFormer` and `GatedCrossAttention` equal their papers' formulas, written naively."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlm.core.features import Features
from vlm.fusion import (
    Attention,
    Fusion,
    GatedCrossAttention,
    PerceiverResampler,
    QFormer,
    Resampler,
    record_attention,
)

IMAGE_DIM, TEXT_DIM, DIM, HEADS = 13, 11, 6, 3
WORD_COUNTS, PATCH_COUNTS = (5, 2, 1), (4, 7, 3)


@pytest.fixture
def inputs() -> tuple[Features, Features]:
    """Image and question features, both padded."""
    return some(IMAGE_DIM, PATCH_COUNTS, 7), some(TEXT_DIM, WORD_COUNTS, 5)


def some(dim: int, counts: tuple[int, ...], room: int) -> Features:
    tokens = torch.randn(len(counts), room, dim, dtype=torch.float64)
    mask = torch.arange(room) < torch.tensor(counts)[:, None]
    return Features(tokens, mask, tokens.mean(1))


def opened(fusion: Fusion) -> Fusion:
    """Randomise the gates, norms and biases, which start at neutral values."""
    for parameter in fusion.parameters():
        nn.init.normal_(parameter.data, std=0.5)
    return fusion.double().eval()


def attention(ours: Attention, query: Tensor, context: Tensor) -> Tensor:
    """(N, D), (M, C) -> (N, D): one row without padding, one head at a time."""
    q, (k, v) = ours.query(query), ours.key_value(context).chunk(2, -1)
    width = q.shape[1] // ours.num_heads
    mixed = []
    for head in range(ours.num_heads):
        part = slice(head * width, (head + 1) * width)
        shares = (q[:, part] @ k[:, part].T / math.sqrt(width)).softmax(-1)
        mixed.append(shares @ v[:, part])
    return ours.out(torch.cat(mixed, -1))


def norm(ours: nn.LayerNorm, x: Tensor) -> Tensor:
    deviation = x - x.mean(-1, keepdim=True)
    return ours.weight * deviation / (deviation.square().mean(-1, keepdim=True) + 1e-5).sqrt() + (
        ours.bias
    )


def numbers_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("layers", "cross_every"), [(3, 2), (2, 1)])
def test_qformer(inputs: tuple[Features, Features], layers: int, cross_every: int) -> None:
    """Figure 2 of the BLIP-2 paper, one row at a time, without padding."""
    image, text = inputs
    fusion = opened(QFormer(IMAGE_DIM, TEXT_DIM, DIM, 2, layers, HEADS, cross_every))
    fused = fusion(image, text)
    for row, (words_count, patches_count) in enumerate(zip(WORD_COUNTS, PATCH_COUNTS, strict=True)):
        patches = image.tokens[row, :patches_count]
        words = fusion.text_projection(text.tokens[row, :words_count])
        x = norm(fusion.norm, torch.cat((words, fusion.queries)))
        for number, layer in enumerate(fusion.layers):
            x = norm(layer.attention_norm, x + attention(layer.attention, x, x))
            words, queries = x[:words_count], x[words_count:]
            if number % cross_every == 0:
                seen = attention(layer.queries_to_patches, queries, patches)
                queries = norm(layer.patches_norm, queries + seen)
            first, _, second, _ = layer.words_feedforward
            words = norm(layer.words_norm, words + second(F.gelu(first(words))))
            first, _, second, _ = layer.queries_feedforward
            queries = norm(layer.queries_norm, queries + second(F.gelu(first(queries))))
            x = torch.cat((words, queries))
        pooled = fusion.words_pool(words.mean(0)) * fusion.queries_pool(queries.amax(0))
        tokens = torch.cat((queries, words))
        torch.testing.assert_close(fused.tokens[row][fused.mask[row]], tokens, rtol=0, atol=1e-12)
        torch.testing.assert_close(fused.pooled[row], pooled, rtol=0, atol=1e-12)


def test_qformer_words_see_the_image_through_the_queries_alone(
    inputs: tuple[Features, Features],
) -> None:
    """The image reaches the queries in the first layer and the words in the second."""
    image, text = inputs
    other = image._replace(tokens=image.tokens + 1)
    for layers, differs in ((1, False), (2, True)):
        fusion = opened(QFormer(IMAGE_DIM, TEXT_DIM, DIM, 2, layers, HEADS))
        one, two = fusion(image, text).tokens, fusion(other, text).tokens
        assert torch.equal(one[:, 2:], two[:, 2:]) != differs
        assert not torch.isclose(one[:, :2], two[:, :2]).all()


def test_qformer_maps_are_glimpses_of_every_second_layer(
    inputs: tuple[Features, Features],
) -> None:
    fusion = QFormer(IMAGE_DIM, TEXT_DIM, DIM, queries=2, num_layers=3, num_heads=HEADS).double()
    with record_attention(fusion) as maps:
        fusion(*inputs)
    assert list(maps) == ["layers.0.queries_to_patches", "layers.2.queries_to_patches"]
    for (weights,) in maps.values():
        assert weights.shape == (3, HEADS * 2, 7)
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))


def test_qformer_has_the_parameters_of_its_formula() -> None:
    i, t, d, q, n = IMAGE_DIM, TEXT_DIM, DIM, 5, 3
    crossing = math.ceil(n / 2)
    expected = (q + t + 2 * d + 5) * d + n * 20 * (d * d + d) + crossing * (2 * d + 2 * i + 6) * d
    assert numbers_of(QFormer(i, t, d, q, n, HEADS)) == expected


def resample(ours: PerceiverResampler, patches: Tensor) -> Tensor:
    """Figure 5 of the Flamingo paper for one image (P, D) without padding."""
    latents = ours.latents
    for layer in ours.layers:
        query = norm(layer.latents_norm, latents)
        context = torch.cat((norm(layer.patches_norm, patches), query))
        latents = latents + attention(layer.latents_to_patches, query, context)
        latents = latents + feedforward(layer.feedforward, latents)
    return norm(ours.norm, latents)


def feedforward(ours: nn.Sequential, x: Tensor) -> Tensor:
    before, first, _, second, _ = ours
    return second(first(norm(before, x)).clamp(min=0) ** 2)


def test_resampler(inputs: tuple[Features, Features]) -> None:
    """Latents that have read the patches, then words; an image of no patch gives no token."""
    image, text = inputs
    fusion = opened(Resampler(IMAGE_DIM, TEXT_DIM, DIM, 2, num_layers=2, num_heads=HEADS))
    fused = fusion(image, text)
    for row, (words_count, patches_count) in enumerate(zip(WORD_COUNTS, PATCH_COUNTS, strict=True)):
        patches = fusion.image_projection(image.tokens[row, :patches_count])
        latents = resample(fusion.resampler, patches)
        words = fusion.text_projection(text.tokens[row, :words_count])
        tokens, pooled = torch.cat((latents, words)), words.mean(0) * latents.amax(0)
        torch.testing.assert_close(fused.tokens[row][fused.mask[row]], tokens, rtol=0, atol=1e-12)
        torch.testing.assert_close(fused.pooled[row], pooled, rtol=0, atol=1e-12)
    empty = fusion(image._replace(mask=torch.zeros_like(image.mask)), text)
    assert empty.mask.sum(1).tolist() == list(WORD_COUNTS)


def test_gated_cross_attention(inputs: tuple[Features, Features]) -> None:
    """Figure 4 of the Flamingo paper, one row at a time, without padding."""
    image, text = inputs
    fusion = opened(GatedCrossAttention(IMAGE_DIM, TEXT_DIM, DIM, 2, 2, 3, HEADS))
    fused = fusion(image, text)
    for row, (words_count, patches_count) in enumerate(zip(WORD_COUNTS, PATCH_COUNTS, strict=True)):
        patches = fusion.image_projection(image.tokens[row, :patches_count])
        latents = resample(fusion.resampler, patches)
        assert latents.shape == (2, DIM)
        words = fusion.text_projection(text.tokens[row, :words_count])
        for layer in fusion.layers:
            seen = attention(layer.attention, norm(layer.norm, words), latents)
            words = words + layer.attention_gate.tanh() * seen
            words = words + layer.feedforward_gate.tanh() * feedforward(layer.feedforward, words)
        before, linear = fusion.pool
        pooled = linear(norm(before, words.mean(0)))
        torch.testing.assert_close(fused.tokens[row, :words_count], words, rtol=0, atol=1e-12)
        torch.testing.assert_close(fused.pooled[row], pooled, rtol=0, atol=1e-12)
    assert fused.mask.equal(text.mask)


def test_closed_gates_open_at_the_first_step(inputs: tuple[Features, Features]) -> None:
    """As in the paper: at first the image has no effect."""
    image, text = inputs
    other = image._replace(tokens=image.tokens + 1)
    fusion = GatedCrossAttention(IMAGE_DIM, TEXT_DIM, DIM, num_heads=HEADS, first_gate=0).double()
    words = fusion.text_projection(text.zero_padding().tokens)
    assert torch.equal(fusion(image, text).tokens, words)
    fusion(image, text).pooled.square().sum().backward()
    assert not fusion.resampler.latents.grad.any()
    for layer in fusion.layers:
        assert layer.attention_gate.grad.any()
        assert layer.feedforward_gate.grad.any()
    torch.optim.SGD(fusion.parameters(), lr=0.1).step()
    assert not torch.isclose(fusion(image, text).pooled, fusion(other, text).pooled).all()


def test_without_a_patch_nothing_passes_the_gate(inputs: tuple[Features, Features]) -> None:
    """This follows IDEFICS; Flamingo does not define attention for a text without an image."""
    image, text = inputs
    mask = image.mask.clone()
    mask[1] = False
    fusion = opened(GatedCrossAttention(IMAGE_DIM, TEXT_DIM, DIM, num_heads=HEADS))
    empty = fusion(image._replace(mask=mask), text)
    for layer in fusion.layers:
        layer.attention_gate.data.zero_()
    closed = fusion(image, text)
    torch.testing.assert_close(empty.tokens[1], closed.tokens[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(empty.pooled[1], closed.pooled[1], rtol=0, atol=1e-12)
    assert not torch.isclose(empty.pooled[0], closed.pooled[0]).all()


def test_the_resampler_shows_patches_and_not_its_latents(
    inputs: tuple[Features, Features],
) -> None:
    """Latents also attend to each other, so a map over the patches sums to less than one."""
    fusion = GatedCrossAttention(IMAGE_DIM, TEXT_DIM, DIM, 2, 2, num_heads=HEADS).double()
    with record_attention(fusion) as maps:
        fusion(*inputs)
    assert list(maps) == [f"resampler.layers.{i}.latents_to_patches" for i in range(2)]
    for (weights,) in maps.values():
        assert weights.shape == (3, HEADS * 2, 7)
        assert bool(((weights.sum(-1) > 0) & (weights.sum(-1) < 1)).all())


def test_gated_cross_attention_has_the_parameters_of_its_formula() -> None:
    i, t, d, m, r, n = IMAGE_DIM, TEXT_DIM, DIM, 5, 2, 3
    expected = (i + t + m + d + 7) * d + r * (12 * d + 15) * d + n * ((12 * d + 13) * d + 2)
    assert numbers_of(GatedCrossAttention(i, t, d, m, r, n, HEADS)) == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: QFormer(13, 11, 6, num_heads=4),
            "num_heads: got 4, which does not divide out_dim=6",
        ),
        (lambda: QFormer(13, 11, 6, queries=0, num_heads=3), "queries: got 0; expected a positive"),
        (lambda: QFormer(13, 11, 6, num_heads=3, cross_every=0), "cross_every: got 0"),
        (
            lambda: GatedCrossAttention(13, 11, 6, num_heads=4),
            "num_heads: got 4, which does not divide",
        ),
        (lambda: GatedCrossAttention(13, 11, 6, latents=0, num_heads=3), "latents: got 0"),
        (lambda: GatedCrossAttention(13, 11, 6, num_layers=0, num_heads=3), "num_layers: got 0"),
        (
            lambda: GatedCrossAttention(13, 11, 6, resampler_layers=0, num_heads=3),
            "resampler_layers: got 0",
        ),
    ],
)
def test_errors(make: type[Fusion], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
