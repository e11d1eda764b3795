"""`Projector` by hand, and its token order."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vlm.core.features import Features
from vlm.fusion import Projector
from vlm.testing import check_fusion


def by_hand() -> Projector:
    """Patches: (a, b) -> gelu(a + b), gelu(a - b); words: c -> c + 1, 2 c."""
    fusion = Projector(2, 1, out_dim=2)
    first, _, second = fusion.image_projection
    weights = {
        first.weight: [[1, 1], [1, -1]],
        first.bias: [0, 0],
        second.weight: [[1, 0], [0, 1]],
        second.bias: [0, 0],
        fusion.text_projection.weight: [[1], [2]],
        fusion.text_projection.bias: [1, 0],
    }
    for parameter, value in weights.items():
        parameter.data = torch.tensor(value, dtype=torch.float64)
    return fusion


def gelu(x: float) -> float:
    return x * (1 + math.erf(x / math.sqrt(2))) / 2


def features(tokens: list[list[float]], real: int) -> Features:
    made = torch.tensor([tokens], dtype=torch.float64)
    return Features(made, torch.arange(made.shape[1])[None] < real, made[:, 0])


def test_by_hand() -> None:
    # The second channel is negative everywhere; a maximum over padding would be gelu(0).
    image, text = features([[1, 2], [-3, 0], [9, 9]], real=2), features([[1], [4], [9]], real=2)
    fused = by_hand()(image, text)
    patches = [[gelu(3), gelu(-1)], [gelu(-3), gelu(-3)]]
    words = [[2, 2], [5, 8]]
    wanted = torch.tensor([*patches, *words], dtype=torch.float64)
    torch.testing.assert_close(fused.tokens[fused.mask], wanted)
    assert fused.mask.tolist() == [[True, True, False, True, True, False]]
    pooled = torch.tensor([[3.5 * gelu(3), 5 * gelu(-3)]], dtype=torch.float64)
    torch.testing.assert_close(fused.pooled, pooled)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_parameters(layers: int) -> None:
    """(I + 1) D + (n - 1) (D + 1) D + (T + 1) D"""
    fusion = Projector(13, 11, out_dim=17, num_layers=layers)
    wanted = 14 * 17 + (layers - 1) * 18 * 17 + 12 * 17
    assert sum(parameter.numel() for parameter in fusion.parameters()) == wanted


def test_llava_is_linear_and_llava_1_5_is_not() -> None:
    def bend(layers: int) -> Tensor:
        """Distance between the projected midpoint and the midpoint of the projections."""
        project = Projector(13, 11, num_layers=layers).image_projection
        x, y = torch.randn(2, 13)
        return (project((x + y) / 2) - (project(x) + project(y)) / 2).abs().max()

    assert bend(1) < 1e-5
    assert bend(2) > 1e-3


class WordsFirst(Projector):
    """A projector that declares the wrong token order."""

    patches_first = False


def test_the_contract_sees_the_order() -> None:
    with pytest.raises(AssertionError, match=r"joint tokens are words, then patches"):
        check_fusion(WordsFirst(13, 11, out_dim=17))


def test_errors() -> None:
    with pytest.raises(ValueError, match="num_layers: got 0; expected a positive integer"):
        Projector(13, 11, num_layers=0)
