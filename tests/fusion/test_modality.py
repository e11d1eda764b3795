"""`ModalityAttention` and `DeepSets` by hand, and where they differ from the reference."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from vlm.fusion import DeepSets, ModalityAttention

IMAGE, TEXT = torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 2.0, 4.0]])


def set_linear(layer: nn.Linear, weight: list[list[float]], bias: list[float] | None) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias))


def test_modality_attention() -> None:
    fusion = ModalityAttention(2, 3, out_dim=2)
    # Logits on [image, text] are 3 + log 3 and 1 - 2 + 4: they differ by log 3.
    set_linear(fusion.mix.weights, [[1, 0, 0, 0, 0], [0, 0, 1, -1, 1]], [math.log(3), 0])
    set_linear(fusion.mix.projections[0], [[1, 1], [0, 2]], [0, 2])  # [4, 4]
    set_linear(fusion.mix.projections[1], [[0, 0, 2], [1, 1, 1]], [0, 1])  # [8, 8]
    fused = fusion(IMAGE, TEXT)
    # 3/4 * 4 + 1/4 * 8 = 5.
    torch.testing.assert_close(fused.pooled, torch.tensor([[5.0, 5.0]]))
    torch.testing.assert_close(fused.tokens, fused.pooled[:, None])
    assert fused.mask.tolist() == [[True]]


def deep_sets(pooling: str, attention_dim: int | None = None) -> DeepSets:
    """Elements [3, 4] / 5 and [12, 5] / 13; all other maps are the identity."""
    fusion = DeepSets(2, 3, 2, 2, hidden_dims=(), pooling=pooling, attention_dim=attention_dim)
    set_linear(fusion.elements.projections[0], [[1, 0], [1, 1]], [0, 0])
    set_linear(fusion.elements.projections[1], [[0, 0, 3], [1, 0, 1]], [0, 0])
    set_linear(fusion.mlp[-1], [[1, 0], [0, 1]], [0, 0])
    return fusion


@pytest.mark.parametrize(
    ("pooling", "wanted"),
    [
        ("max", [12 / 13, 4 / 5]),
        ("sum", [3 / 5 + 12 / 13, 4 / 5 + 5 / 13]),
        ("mean", [(3 / 5 + 12 / 13) / 2, (4 / 5 + 5 / 13) / 2]),
    ],
)
def test_deep_sets(pooling: str, wanted: list[float]) -> None:
    fused = deep_sets(pooling)(IMAGE, TEXT)
    torch.testing.assert_close(fused.pooled, torch.tensor([wanted]))
    assert fused.mask.tolist() == [[True]]


def test_deep_sets_with_attention() -> None:
    fusion = deep_sets("sum", attention_dim=1)
    first, _, last, _ = fusion.elements.attention.weights
    set_linear(first, [[5, 0]], [-3])  # 5 * 3 / 5 - 3 = 0, 5 * 12 / 13 - 3 = 21 / 13
    set_linear(last, [[math.log(3) / math.tanh(21 / 13)]], None)  # logits 0 and log 3
    wanted = [(3 / 5 + 3 * 12 / 13) / 4, (4 / 5 + 3 * 5 / 13) / 4]
    torch.testing.assert_close(fusion(IMAGE, TEXT).pooled, torch.tensor([wanted]))


def test_weights_matter() -> None:
    """The reference rescales after weighting, so its attention never changes the result."""
    fusion, image, text = deep_sets("mean", attention_dim=3), IMAGE, TEXT

    def reference(weights: Tensor) -> Tensor:
        elements = [p(x) for p, x in zip(fusion.elements.projections, (image, text), strict=True)]
        weighted = torch.stack(elements, 1) * weights[:, None]
        return nn.functional.normalize(weighted, dim=-1).mean(1)

    torch.testing.assert_close(
        reference(torch.tensor([0.5, 0.5])), reference(torch.tensor([0.9, 0.1]))
    )
    before = fusion(image, text).pooled
    with torch.no_grad():
        fusion.elements.attention.weights[0].weight.add_(1)
    assert (fusion(image, text).pooled - before).abs().max() > 1e-3


def test_relu_between_the_layers() -> None:
    fusion = DeepSets(2, 3, 1, 2, hidden_dims=(2,))
    fusion.elements.load_state_dict(deep_sets("max").elements.state_dict())
    set_linear(fusion.mlp[0], [[1, 1], [-1, -1]], [0, 0])
    set_linear(fusion.mlp[-1], [[1, 7]], [0])
    wanted = torch.tensor([[12 / 13 + 4 / 5]])
    torch.testing.assert_close(fusion(IMAGE, TEXT).pooled, wanted)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_numbers_of_parameters() -> None:
    x, y, d, e, h, a = 13, 11, 17, 7, 19, 5
    assert count(ModalityAttention(x, y, d)) == 2 * (x + y + 1) + d * (x + y + 2)
    elements, perceptron = e * (x + y + 2), h * (e + 1) + d * (h + 1)
    assert count(DeepSets(x, y, d, e, (h,))) == elements + perceptron
    attention = a * (e + 1) + a
    assert count(DeepSets(x, y, d, e, (h,), "mean", a)) == elements + attention + perceptron


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"pooling: got 'median'; expected one of max, mean, sum"):
        DeepSets(13, 11, pooling="median")
    with pytest.raises(ValueError, match=r"attention_dim: got 0; expected a positive integer"):
        DeepSets(13, 11, attention_dim=0)
    with pytest.raises(ValueError, match=r"element_dim: got 0; expected a positive integer"):
        DeepSets(13, 11, element_dim=0)
    with pytest.raises(ValueError, match=r"hidden_dims\[1\]: got -1; expected a positive integer"):
        DeepSets(13, 11, hidden_dims=(3, -1))
