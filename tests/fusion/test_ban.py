"""`BAN` equals the paper's sums over all pairs, and differs from its references on purpose."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vlm.core.features import Features
from vlm.fusion import BAN, record_attention
from vlm.testing.fusions import some_features

X, Y, D, G, K = 13, 11, 7, 2, 3
"""Widths of image, text and result, glimpses and rank factor."""


@pytest.fixture
def fusion() -> BAN:
    return BAN(X, Y, out_dim=D, glimpses=G, rank_factor=K).double().eval()


@pytest.fixture
def image() -> Features:
    return in_double(some_features(X, (5, 3, 1), 5))


@pytest.fixture
def text() -> Features:
    return in_double(some_features(Y, (2, 4, 3), 4))


def in_double(features: Features) -> Features:
    return features._replace(tokens=features.tokens.double(), pooled=features.pooled.double())


def relu(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The projection, written out."""
    return (layer[0].weight @ x + layer[0].bias).clamp(min=0)


def test_sums_over_pairs_of_real_tokens(fusion: BAN, image: Features, text: Features) -> None:
    """Word by word and patch by patch, over the real tokens of each row only."""
    with record_attention(fusion) as maps:
        fused = fusion(image, text)
    (recorded,) = maps["attention"]
    assert recorded.shape == (3, G, 4, 5)
    attention = fusion.attention
    for row in range(3):
        patches = list(image.tokens[row, image.mask[row]])
        first = fusion.text_projection.weight, fusion.text_projection.bias
        words = [first[0] @ word + first[1] for word in text.tokens[row, text.mask[row]]]
        logits = torch.zeros(G, len(words), len(patches), dtype=torch.float64)
        for t, word in enumerate(words):
            for n, patch in enumerate(patches):
                pair = relu(attention.text_projection, word) * relu(
                    attention.image_projection, patch
                )
                logits[:, t, n] = attention.glimpses @ pair
        weights = logits.exp() / logits.exp().sum((1, 2), keepdim=True)
        torch.testing.assert_close(recorded[row, :, : len(words), : len(patches)], weights)
        for pooling, glimpse in zip(fusion.poolings, weights, strict=True):
            joint = sum(
                glimpse[t, n]
                * relu(pooling.text_projection, word)
                * relu(pooling.image_projection, patch)
                for t, word in enumerate(words)
                for n, patch in enumerate(patches)
            )
            words = [word + pooling.out.weight @ joint + pooling.out.bias for word in words]
        torch.testing.assert_close(fused.pooled[row], sum(words))
        torch.testing.assert_close(fused.tokens[row, text.mask[row]], torch.stack(words))
    assert fused.mask.equal(text.mask)


def test_number_of_parameters(fusion: BAN) -> None:
    rank = K * D
    maps = (X + 1) * rank + (D + 1) * rank + G * rank
    pooling = (X + 1) * D + (D + 1) * D + (D + 1) * D
    count = sum(parameter.numel() for parameter in fusion.parameters())
    assert count == (Y + 1) * D + maps + G * pooling


def test_masks_are_given_and_cover_words(fusion: BAN, image: Features, text: Features) -> None:
    """The references never mask words, and treat an all-zero region as padding.

    Padding must not change an answer, and a region that happens to be zero (rectified features of a
    plain background) is still a region.
    """
    image.tokens[0, 2] = 0
    with record_attention(fusion) as maps:
        fusion(image, text)
    (weights,) = maps["attention"]
    assert not weights[0, :, 2:].any()  # padded words
    assert (weights[0, :, :2, 2] > 0).all()  # a real patch of zeros
    torch.testing.assert_close(weights.sum((2, 3)), torch.ones(3, G, dtype=torch.float64))


def test_a_bias_per_map_would_cancel(fusion: BAN, image: Features, text: Features) -> None:
    """The references have a bias per map (`h_bias`) that affects no output; ours has none."""
    patches = fusion.attention.image_projection(image.tokens)
    logits = fusion.attention.logits(fusion.text_projection(text.tokens), patches)
    biased = logits + torch.randn(G, 1, 1, dtype=torch.float64)
    torch.testing.assert_close(logits.flatten(2).softmax(2), biased.flatten(2).softmax(2))


@pytest.mark.parametrize("name", ["glimpses", "rank_factor", "out_dim"])
def test_sizes_are_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: got 0; expected a positive integer"):
        BAN(X, Y, **{name: 0})
