"""`ParallelCoAttention` follows the paper's equations 3 to 5 and 7 (arXiv 1606.00061)."""

from __future__ import annotations

import math

import pytest
import torch

from vlm.fusion import ParallelCoAttention, record_attention
from vlm.testing.fusions import some_features

X, Y, D, K = 13, 11, 7, 5
"""Widths of image, text, result and hidden layer."""


def test_equations() -> None:
    """The paper's column vectors and names, on the real tokens of each row only."""
    fusion = ParallelCoAttention(X, Y, out_dim=D, hidden_dim=K).eval()
    image, text = some_features(X, (5, 3, 1), 5), some_features(Y, (2, 4, 3), 4)
    with record_attention(fusion) as maps:
        fused = fusion(image, text)
    (recorded,) = maps["attention"]
    assert recorded.shape == (3, 1, 5)
    attention = fusion.attention
    # nn.Linear maps rows; the paper's W_b stands between q^T and v, so ours is its transpose.
    w_b = attention.affinity.weight.T
    w_v, w_q = attention.patches_hidden.weight, attention.words_hidden.weight
    for row in range(3):
        v = fusion.image_projection(image.tokens[row, image.mask[row]]).T  # (d, N)
        q = fusion.text_projection(text.tokens[row, text.mask[row]]).T  # (d, T)
        c = torch.tanh(q.T @ w_b @ v)
        h_v = torch.tanh(w_v @ v + (w_q @ q) @ c)
        h_q = torch.tanh(w_q @ q + (w_v @ v) @ c.T)
        a_v = (attention.patches_score.weight @ h_v).softmax(1)  # (1, N)
        a_q = (attention.words_score.weight @ h_q).softmax(1)  # (1, Y)
        attended = sum(a_v[0, n] * v[:, n] for n in range(v.shape[1]))
        attended = attended + sum(a_q[0, t] * q[:, t] for t in range(q.shape[1]))
        last = fusion.out[1]
        torch.testing.assert_close(
            fused.pooled[row], torch.tanh(last.weight @ attended + last.bias)
        )
        torch.testing.assert_close(recorded[row, :, : v.shape[1]], a_v)
        real = torch.cat((text.mask[row], image.mask[row]))
        torch.testing.assert_close(fused.tokens[row, real], torch.cat((q, v), 1).T)
        assert fused.mask[row].equal(real)


def test_by_hand() -> None:
    """One word and two patches of width one, worked out in full."""
    fusion = ParallelCoAttention(1, 1, out_dim=1, hidden_dim=1)
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.fill_(1.0 if parameter.ndim == 2 else 0.0)
    # C = tanh(1 * v); h_v = tanh(v + C), logits of 0 and 0.5 are 0 and tanh(0.5 + tanh(0.5)).
    logit = math.tanh(0.5 + math.tanh(0.5))
    share = math.exp(logit) / (1 + math.exp(logit))
    image, text = torch.tensor([[[0.0], [0.5]]]), torch.tensor([[[1.0]]])
    wanted = math.tanh(1 + 0.5 * share)
    torch.testing.assert_close(fusion(image, text).pooled, torch.tensor([[wanted]]))


def test_number_of_parameters() -> None:
    fusion = ParallelCoAttention(X, Y, out_dim=D, hidden_dim=K)
    count = sum(parameter.numel() for parameter in fusion.parameters())
    assert count == (X + 1) * D + (Y + 1) * D + D * D + 2 * K * (D + 1) + (D + 1) * D


@pytest.mark.parametrize("name", ["hidden_dim", "out_dim"])
def test_sizes_are_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: got -1; expected a positive integer"):
        ParallelCoAttention(X, Y, **{name: -1})
