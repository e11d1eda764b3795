"""One value per operator, worked out by hand."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from vlm.core.features import Features, masked_max, masked_mean, masked_softmax
from vlm.fusion import (
    ConcatMLP,
    CrossAttention,
    CrossModalAttention,
    Pooled,
    Product,
    record_attention,
)


def set_linear(layer: nn.Module, weight: list[list[float]], bias: list[float] | None) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias))


def product(activation: str = "identity") -> Product:
    merge = Product(2, 3, out_dim=2, activation=activation)
    set_linear(merge.x_projection, [[1, 2], [0, -1]], [1, 0])
    set_linear(merge.y_projection, [[1, 0, 1], [2, 1, 0]], [0, -3])
    return merge


X, Y = torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 2.0, 4.0]])


def test_product() -> None:
    # W x + b = [3 + 2 + 1, -1] = [6, -1];  V y + c = [1 + 4, 2 + 2 - 3] = [5, 1].
    torch.testing.assert_close(product()(X, Y), torch.tensor([[30.0, -1.0]]))


def test_product_of_rectified_factors() -> None:
    torch.testing.assert_close(product("relu")(X, Y), torch.tensor([[30.0, 0.0]]))


def test_concat_mlp() -> None:
    merge = ConcatMLP(2, 3, out_dim=1, hidden_dims=(2,))
    # On [x, y]: rows [1, 0 | 0, 1, 0] and [0, 1 | -1, 0, -1], biases 0.5 and 1.
    set_linear(merge.x_projection, [[1, 0], [0, 1]], [0.5, 1])
    set_linear(merge.y_projection, [[0, 1, 0], [-1, 0, -1]], None)
    set_linear(merge.layers[-1], [[2, 7]], [-1])
    # Hidden: relu([3 + 2 + 0.5, 1 - 1 - 4 + 1]) = [5.5, 0];  2 * 5.5 - 1 = 10.
    torch.testing.assert_close(merge(X, Y), torch.tensor([[10.0]]))


def test_concat_mlp_is_a_perceptron_on_the_concatenation() -> None:
    torch.manual_seed(0)
    merge = ConcatMLP(5, 7, out_dim=3, hidden_dims=(11, 13), activation="tanh")
    x, y = torch.randn(2, 5), torch.randn(2, 7)
    first = nn.Linear(12, 11)
    with torch.no_grad():
        first.weight.copy_(torch.cat((merge.x_projection.weight, merge.y_projection.weight), 1))
        first.bias.copy_(merge.x_projection.bias)
    torch.testing.assert_close(merge(x, y), merge.layers(first(torch.cat((x, y), 1))))


def test_concat_mlp_without_hidden_layers_is_linear() -> None:
    merge = ConcatMLP(2, 3, out_dim=1, hidden_dims=())
    set_linear(merge.x_projection, [[1, 2]], [3])
    set_linear(merge.y_projection, [[4, 5, 6]], None)
    torch.testing.assert_close(merge(X, Y), torch.tensor([[3.0 + 2 + 3 + 4 + 10 + 24]]))


def test_dropout_is_scaled() -> None:
    merge = Product(2, 3, out_dim=2, dropout=0.5)
    merge.load_state_dict(product().state_dict())
    torch.manual_seed(0)
    values = {round(v) for _ in range(32) for v in merge(X, Y).flatten().tolist()}
    assert values == {60, -2, 0}  # kept values are doubled
    torch.testing.assert_close(merge.eval()(X, Y), torch.tensor([[30.0, -1.0]]))


def test_pooled_reads_the_pooled_vectors() -> None:
    fusion = Pooled(2, 3, merge=partial(Product, out_dim=2))
    fusion.merge.load_state_dict(product().state_dict())
    tokens = torch.zeros(1, 5, 2)
    image = Features(tokens, torch.ones(1, 5, dtype=torch.bool), X)
    fused = fusion(image, Y)
    torch.testing.assert_close(fused.pooled, torch.tensor([[30.0, -1.0]]))
    torch.testing.assert_close(fused.tokens, torch.tensor([[[30.0, -1.0]]]))
    assert fused.mask.tolist() == [[True]]
    assert fusion.out_dim == 2


MASK = torch.tensor([[True, True, False], [False, False, False]])
TOKENS = torch.tensor(
    [[[1.0, -8.0], [3.0, -2.0], [math.nan, math.inf]], [[5.0, 5.0], [5.0, 5.0], [5.0, 5.0]]]
)


def test_masked_mean() -> None:
    wanted = torch.tensor([[2.0, -5.0], [0.0, 0.0]])
    torch.testing.assert_close(masked_mean(TOKENS, MASK), wanted, rtol=0, atol=0)


def test_masked_max() -> None:
    wanted = torch.tensor([[3.0, -2.0], [0.0, 0.0]])
    torch.testing.assert_close(masked_max(TOKENS, MASK), wanted, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_masked_softmax(dtype: torch.dtype) -> None:
    logits = torch.tensor([[math.log(3), 0.0, 50.0], [1.0, 2.0, math.nan]], dtype=dtype)
    wanted = torch.tensor([[0.75, 0.25, 0.0], [0.0, 0.0, 0.0]], dtype=dtype)
    torch.testing.assert_close(masked_softmax(logits, MASK), wanted, rtol=0, atol=4e-3)


def test_masked_softmax_gradient_in_empty_rows() -> None:
    logits = torch.zeros(2, 3, requires_grad=True)
    masked_softmax(logits, MASK)[:, 0].sum().backward()
    wanted = torch.tensor([[0.25, -0.25, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(logits.grad, wanted)


def test_masked_softmax_along_another_axis() -> None:
    got = masked_softmax(torch.zeros(2, 3), MASK, dim=0)
    torch.testing.assert_close(got, torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))


def identity_attention(dim: int, words_last: bool = False) -> CrossModalAttention:
    """Make queries, keys and values equal to the tokens."""
    attention = CrossModalAttention(dim, dim, num_heads=1, words_last=words_last)
    eye = torch.eye(dim).tolist()
    set_linear(attention.query, eye, [0.0] * dim)
    set_linear(attention.key_value, eye + eye, [0.0] * 2 * dim)
    set_linear(attention.out, eye, [0.0] * dim)
    return attention


def test_attention() -> None:
    attention = identity_attention(1)
    query = torch.tensor([[[1.0]]])
    context = torch.tensor([[[0.0], [math.log(3)], [9.0]]])
    mask = torch.tensor([[True, True, False]])
    # Logits 0 and log 3: weights 1/4 and 3/4.
    wanted = torch.tensor([[[0.75 * math.log(3)]]])
    torch.testing.assert_close(attention(query, context, mask), wanted)
    with record_attention(attention) as maps:
        torch.testing.assert_close(attention(query, context, mask), wanted)
    torch.testing.assert_close(maps[""][0], torch.tensor([[[[0.25, 0.75, 0.0]]]]))


def test_attention_divides_by_the_root_of_the_width() -> None:
    attention = identity_attention(4)
    query = torch.full((1, 1, 4), 1.0)
    context = torch.stack((torch.zeros(4), torch.full((4,), math.log(3) / 2)))[None]
    # 4 * log(3) / 2 / sqrt(4) = log 3.
    with record_attention(attention) as maps:
        attention(query, context, torch.ones(1, 2, dtype=torch.bool))
    torch.testing.assert_close(maps[""][0], torch.tensor([[[[0.25, 0.75]]]]))


def test_cross_attention_reads_both_sides() -> None:
    """Words attend to patches and patches to words; padding attends to nothing."""
    torch.manual_seed(0)
    fusion = CrossAttention(3, 5, out_dim=6, num_layers=1, num_heads=2, feedforward_dim=7)
    image, text = torch.randn(1, 2, 3), torch.randn(1, 4, 5)
    before = fusion(image, text).tokens

    def moved(image: Tensor, text: Tensor) -> list[bool]:
        return ((fusion(image, text).tokens - before).abs().amax(2)[0] > 1e-6).tolist()

    other_patch, other_word = image.clone(), text.clone()
    other_patch[0, 1] += 1
    other_word[0, 2] += 1
    assert moved(other_patch, text) == [True, True, True, True, False, True]
    assert moved(image, other_word) == [False, False, True, False, True, True]
