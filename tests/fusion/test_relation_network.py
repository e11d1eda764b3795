"""`RelationNetwork` equals the paper's formula over pairs, and finds fractions of pairs by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vlm.core.features import Features
from vlm.fusion import RelationNetwork

COUNTS = (5, 2, 1)


def inputs() -> tuple[Features, Features]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(3, 5, 13, dtype=torch.float64, generator=generator)
    corners = torch.rand(3, 5, 2, 2, dtype=torch.float64, generator=generator)
    boxes = corners.sort(2).values.flatten(2)
    mask = torch.arange(5) < torch.tensor(COUNTS)[:, None]
    words = torch.randn(3, 4, 11, dtype=torch.float64, generator=generator)
    return Features(tokens, mask, boxes=boxes), Features(words)


def test_against_the_formula() -> None:
    image, text = inputs()
    assert image.boxes is not None
    fusion = RelationNetwork(13, 11, 17, pair_dims=(19, 23), hidden_dims=(7,)).double().eval()
    first = torch.cat((fusion.left.weight, fusion.right.weight, fusion.question.weight), 1)
    fused = fusion(image, text)
    for row, count in enumerate(COUNTS):
        total = torch.zeros(23, dtype=torch.float64)
        centres = image.boxes[row, :, :2] + image.boxes[row, :, 2:] - 1
        objects = torch.cat((image.tokens[row], centres), 1)
        for i in range(count):
            for j in range(count):
                pair = torch.cat((objects[i], objects[j], text.pooled[row]))
                hidden = (first @ pair + fusion.left.bias).relu()
                total += fusion.judge[1](hidden).relu()
        wanted = fusion.out(total / count**2)
        torch.testing.assert_close(fused.pooled[row], wanted, rtol=0, atol=1e-10)
    assert fused.tokens.shape == (3, 1, 17)


@pytest.mark.parametrize("count", [1, 3, 6])
def test_fraction_of_pairs_in_which_the_first_is_larger(count: int) -> None:
    fusion = RelationNetwork(1, 1, 1, pair_dims=(2,), hidden_dims=())
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.zero_()
        # ReLU(d) - ReLU(d - 1) of whole differences d = o_i - o_j is 1 if d > 0, else 0.
        fusion.left.weight[:, 0], fusion.right.weight[:, 0] = 1, -1
        fusion.left.bias[1] = -1
        fusion.out[0].weight.copy_(torch.tensor([[1.0, -1.0]]))
    values = torch.arange(count, dtype=torch.float32).view(1, count, 1)
    fused = fusion(values, torch.zeros(1, 1, 1))
    assert fused.pooled.item() == pytest.approx((count - 1) / (2 * count))


def test_number_of_parameters() -> None:
    fusion = RelationNetwork(13, 11, 17, pair_dims=(19, 23), hidden_dims=(7,))
    pairs = (2 * 13 + 4 + 11 + 1) * 19 + (19 + 1) * 23
    formula = pairs + (23 + 1) * 7 + (7 + 1) * 17
    assert sum(p.numel() for p in fusion.parameters()) == formula


@pytest.mark.parametrize("count", [2, 60])
def test_first_outputs_do_not_grow_with_the_number_of_tokens(count: int) -> None:
    fusion = RelationNetwork(60, 50, 40)
    fused = fusion(torch.randn(8, count, 60), torch.randn(8, 1, 50))
    assert 0.1 < fused.pooled.std().item() < 3


def test_first_weights() -> None:
    fusion = RelationNetwork(60, 50)
    layers = [module for module in fusion.modules() if isinstance(module, nn.Linear)]
    assert len(layers) == 9
    for layer in layers:
        he = (2 / layer.in_features) ** 0.5
        assert layer.weight.std().item() == pytest.approx(he, rel=0.1)
        assert layer.bias is None or not layer.bias.any()


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"pair_dims: got none; expected at least one width"):
        RelationNetwork(13, 11, pair_dims=())
    with pytest.raises(ValueError, match=r"pair_dims\[1\]: got 0; expected a positive integer"):
        RelationNetwork(13, 11, pair_dims=(3, 0))
