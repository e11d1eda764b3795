"""`MFBCoAttention` equals its formulas, and differs from openvqa on purpose."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vlm.fusion import MFBCoAttention, record_attention
from vlm.fusion.merges.low_rank import FactorizedBlocks
from vlm.testing.fusions import some_features

X, Y, D, H, K, G = 13, 11, 17, 7, 3, 2
"""Widths of image, text, result and bilinear features, size of a group, glimpses."""


def chain(blocks: FactorizedBlocks, x: Tensor, y: Tensor) -> Tensor:
    """z_i = n(sum over groups of e_1 * ... * e_i), e_i = (W_i x + b_i) * (V_i y + c_i)."""
    product, parts = torch.ones(H * K), []
    for w, v in zip(blocks.x_projections, blocks.y_projections, strict=True):
        product = product * (w.weight @ x + w.bias) * (v.weight @ y + v.bias)
        z = torch.stack([product[o * K : (o + 1) * K].sum() for o in range(H)])
        z = z.sign() * z.abs().sqrt()
        parts.append(z / z.norm())
    return torch.cat(parts)


@pytest.mark.parametrize("order", [1, 2])
def test_formulas(order: int) -> None:
    """Token by token, on the real tokens of each row only."""
    fusion = MFBCoAttention(X, Y, D, hidden_dim=H, factor=K, order=order, glimpses=G).eval()
    image, text = some_features(X, (5, 3, 1), 5), some_features(Y, (2, 4, 3), 4)
    with record_attention(fusion) as maps:
        fused = fusion(image, text)
    (recorded,) = maps["patches"]
    assert recorded.shape == (3, G, 5)
    first, _, last = fusion.words.score
    scoring = fusion.patches.merge.out_projection
    for row in range(3):
        words, patches = text.tokens[row, text.mask[row]], image.tokens[row, image.mask[row]]
        scores = [last.weight @ (first.weight @ word + first.bias).clamp(min=0) for word in words]
        weights = torch.stack(scores, 1).softmax(1)  # (G, L)
        question = torch.cat([weights[g] @ words for g in range(G)])
        scores = [
            fusion.patches.score.weight
            @ (
                scoring.weight @ chain(fusion.patches.merge.block, patch, question) + scoring.bias
            ).clamp(min=0)
            for patch in patches
        ]
        weights = torch.stack(scores, 1).softmax(1)  # (G, P)
        torch.testing.assert_close(recorded[row, :, : len(patches)], weights)
        picture = torch.cat([weights[g] @ patches for g in range(G)])
        out = fusion.merge.out_projection
        wanted = out.weight @ chain(fusion.merge.blocks, picture, question) + out.bias
        torch.testing.assert_close(fused.pooled[row], wanted)
        torch.testing.assert_close(fused.tokens[row], wanted[None])
    assert fused.mask.all()


@pytest.mark.parametrize("order", [1, 2])
def test_number_of_parameters(order: int) -> None:
    fusion = MFBCoAttention(X, Y, D, hidden_dim=H, factor=K, order=order, glimpses=G)
    words = (Y + 1) * H + H * G
    patches = (X + G * Y + 2) * H * K + (H + 1) * H + H * G
    merge = order * (G * X + G * Y + 2) * H * K + (order * H + 1) * D
    assert sum(parameter.numel() for parameter in fusion.parameters()) == words + patches + merge


def test_each_patch_is_normalised_alone() -> None:
    """The odds between two patches depend on these two alone.

    openvqa divides by one norm over all regions, so each score depends on the other regions, their
    number and the padding.
    """
    fusion = MFBCoAttention(X, Y, D, hidden_dim=H, factor=K, glimpses=G).eval()
    patches, words = torch.randn(1, 5, X), torch.randn(1, 4, Y)
    with record_attention(fusion) as maps:
        fusion(patches, words)
        fusion(patches[:, :2], words)
    all_five, first_two = maps["patches"]
    odds = all_five[..., 0] / all_five[..., 1]
    torch.testing.assert_close(odds, first_two[..., 0] / first_two[..., 1])


def test_a_bias_of_the_scores_would_cancel() -> None:
    """openvqa has a score bias in both attentions that affects no output; ours has none."""
    fusion = MFBCoAttention(X, Y, D, hidden_dim=H, factor=K, glimpses=G)
    scores = fusion.words.score(torch.randn(3, 4, Y))
    torch.testing.assert_close(scores.softmax(1), (scores + torch.randn(G)).softmax(1))
    assert fusion.words.score[2].bias is None
    assert fusion.patches.score.bias is None


@pytest.mark.parametrize("name", ["glimpses", "order", "factor", "hidden_dim"])
def test_sizes_are_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: got 0; expected a positive integer"):
        MFBCoAttention(X, Y, **{name: 0})
