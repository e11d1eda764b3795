"""`DFAF` computes the paper's two flows (arXiv 1812.05252, section 3)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vlm.fusion import DFAF, record_attention
from vlm.fusion.dfaf import InterFlow, IntraFlow
from vlm.testing.fusions import some_features

X, Y, D, HEADS = 13, 11, 6, 3
"""Widths of image, text and result, and attention heads."""


def attended(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Compute softmax(Q K^T / sqrt(d)) V head by head; return each head's weights too."""
    mixed, weights = [], []
    for head in range(HEADS):
        part = slice(head * D // HEADS, (head + 1) * D // HEADS)
        q, k, v = query[:, part], key[:, part], value[:, part]
        weights.append((q @ k.T / (D // HEADS) ** 0.5).softmax(1))
        mixed.append(weights[-1] @ v)
    return torch.cat(mixed, 1), weights


def inter(flow: InterFlow, words: Tensor, patches: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    e_q, e_k, e_v = flow.words_qkv(words).split(D, 1)
    r_q, r_k, r_v = flow.patches_qkv(patches).split(D, 1)
    e_update, weights = attended(e_q, r_k, r_v)
    r_update, _ = attended(r_q, e_k, e_v)
    words = flow.words_out(torch.cat((words, e_update), 1))
    return words, flow.patches_out(torch.cat((patches, r_update), 1)), weights


def intra(flow: IntraFlow, words: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
    e_gate = torch.sigmoid(flow.words_gate(patches.mean(0)))
    r_gate = torch.sigmoid(flow.patches_gate(words.mean(0)))
    e_q, e_k, e_v = flow.words_qkv(words).split(D, 1)
    r_q, r_k, r_v = flow.patches_qkv(patches).split(D, 1)
    e_update, _ = attended((1 + e_gate) * e_q, (1 + e_gate) * e_k, e_v)
    r_update, _ = attended((1 + r_gate) * r_q, (1 + r_gate) * r_k, r_v)
    return flow.words_out(words + e_update), flow.patches_out(patches + r_update)


def test_flows() -> None:
    """Two layers, recomputed on the real tokens of each row only."""
    fusion = DFAF(X, Y, out_dim=D, num_layers=2, num_heads=HEADS).eval()
    image, text = some_features(X, (5, 3, 1), 5), some_features(Y, (2, 4, 3), 4)
    with record_attention(fusion) as maps:
        fused = fusion(image, text)
    assert set(maps) == {
        f"layers.{i}.{way}" for i in (0, 2) for way in ("words_to_patches", "patches_to_words")
    }
    for row in range(3):
        patches = fusion.image_projection(image.tokens[row, image.mask[row]])
        words = fusion.text_projection(text.tokens[row, text.mask[row]])
        for i in (0, 2):
            words, patches, weights = inter(fusion.layers[i], words, patches)
            recorded = maps[f"layers.{i}.words_to_patches"][0][row]
            torch.testing.assert_close(
                recorded[:, : len(words), : len(patches)], torch.stack(weights)
            )
            words, patches = intra(fusion.layers[i + 1], words, patches)
        torch.testing.assert_close(fused.pooled[row], words.mean(0) * patches.mean(0))
        torch.testing.assert_close(fused.tokens[row, fused.mask[row]], torch.cat((words, patches)))


def test_maps_of_either_way_sum_to_one() -> None:
    fusion = DFAF(X, Y, out_dim=D, num_heads=HEADS).eval()
    image, text = some_features(X, (5, 3), 5), some_features(Y, (2, 4), 4)
    with record_attention(fusion) as maps:
        fusion(image, text)
    to_patches, to_words = (
        maps[f"layers.0.{way}"][0] for way in ("words_to_patches", "patches_to_words")
    )
    for sums, mask in ((to_patches.sum(3), text.mask), (to_words.sum(2), image.mask)):
        torch.testing.assert_close(sums, mask[:, None].float().expand_as(sums))


def test_number_of_parameters() -> None:
    """Per layer and side: two query, key and value maps, a gate, and the last two projections."""
    fusion = DFAF(X, Y, out_dim=D, num_layers=2, num_heads=HEADS)
    side = 2 * 3 * (D + 1) * D + (D + 1) * D + (2 * D + 1) * D + (D + 1) * D
    count = sum(parameter.numel() for parameter in fusion.parameters())
    assert count == (X + 1) * D + (Y + 1) * D + 2 * 2 * side


def test_errors() -> None:
    with pytest.raises(ValueError, match="num_heads: got 4, which does not divide out_dim=6"):
        DFAF(X, Y, out_dim=6, num_heads=4)
    with pytest.raises(ValueError, match="num_layers: got 0; expected a positive integer"):
        DFAF(X, Y, num_layers=0)
