"""The counting module is exact where its paper promises exact counts."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from vlm.core.features import Features
from vlm.fusion import BAN, GlimpseAttention, ObjectCounter, Sum
from vlm.fusion.counting import PiecewiseLinear, overlaps

CERTAIN = 50.0
"""A logit whose sigmoid is 1 in float32; and its negative, 0 to 1e-22."""


def scene(objects: int, copies: int, others: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Disjoint objects, each with `copies` equal boxes, and `others` without attention."""
    left = torch.arange(objects + others) / (objects + others + 1)
    width = 0.5 / (objects + others + 1)
    boxes = torch.stack((left, torch.full_like(left, 0.2), left + width, left * 0 + 0.9), 1)
    rows = [*range(objects)] * copies + [*range(objects, objects + others)]
    logits = torch.tensor([CERTAIN] * (objects * copies) + [-CERTAIN] * others)
    order = torch.randperm(len(rows))
    boxes = boxes[rows][order]
    return logits[order][None], boxes[None], torch.ones(1, len(rows), dtype=torch.bool)


def one_hot(number: int, objects: int) -> Tensor:
    return torch.eye(objects + 1)[number][None]


@pytest.mark.parametrize("number", [1, 2, 3, 7])
def test_equal_boxes_are_one_object(number: int) -> None:
    counted = ObjectCounter(7)(*scene(1, copies=number))
    assert_close(counted, one_hot(1, 7), rtol=0, atol=1e-5)


@pytest.mark.parametrize("number", [0, 1, 2, 5, 7])
def test_disjoint_boxes_are_as_many_objects(number: int) -> None:
    counted = ObjectCounter(7)(*scene(number, copies=1, others=4))
    assert_close(counted, one_hot(number, 7), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("objects", "copies"), [(2, 3), (3, 2), (5, 2), (2, 5)])
def test_copies_of_several_objects(objects: int, copies: int) -> None:
    counted = ObjectCounter(11)(*scene(objects, copies, others=6))
    assert_close(counted, one_hot(objects, 11), rtol=0, atol=1e-5)


def test_unequal_numbers_of_copies() -> None:
    logits, boxes, mask = scene(3, copies=1)
    chosen = [0, 0, 0, 0, 1, 2, 2]
    counted = ObjectCounter(11)(logits[:, chosen], boxes[:, chosen], mask[:, chosen])
    assert_close(counted, one_hot(3, 11), rtol=0, atol=1e-5)


def test_more_than_it_can_count_is_the_most() -> None:
    counted = ObjectCounter(3)(*scene(8, copies=1))
    assert_close(counted, one_hot(3, 3), rtol=0, atol=1e-5)


def test_a_trained_counter_is_exact_too() -> None:
    """f1 to f8 map 0 to 0 and 1 to 1, whatever their parameters."""
    counter = ObjectCounter(7, pieces=5)
    for parameter in counter.parameters():
        torch.nn.init.normal_(parameter)
    assert_close(counter(*scene(3, copies=2, others=5)), one_hot(3, 7), rtol=0, atol=1e-4)


def test_half_a_look_is_less_certain() -> None:
    logits, boxes, mask = scene(2, copies=1)
    counted = ObjectCounter(2)(logits * 0, boxes, mask)
    # a = 1/2, A = 1/4 = f1(a^2), E = 1/4 off the diagonal, nothing alike: total 2/4 + 2/4, count 1.
    # X = 1/4 off the diagonal; sim_12 = f3(1) (3/4)^2; s = 1 / (1 + 9/16) = 16/25.
    share = 16 / 25
    count = (2 * share**2 / 4 + 2 * share / 4) ** 0.5
    certain = 0 + 0.5  # of the weights, and of the distances
    assert_close(counted, certain * torch.tensor([[1 - count, count, 0]]), rtol=0, atol=1e-5)


def test_padding_and_the_order_change_nothing() -> None:
    counter = ObjectCounter(7)
    logits, mask = torch.randn(1, 5), torch.ones(1, 5, dtype=torch.bool)
    boxes = torch.rand(1, 5, 2, 2).sort(2).values.flatten(2)
    wanted = counter(logits, boxes, mask)
    order = torch.tensor([3, 0, 4, 1, 2])
    assert_close(counter(logits[:, order], boxes[:, order], mask), wanted)
    more = torch.full((1, 4), float("nan"))
    padded = torch.cat((logits, more), 1), torch.cat((boxes, more[..., None].expand(1, 4, 4)), 1)
    assert_close(counter(*padded, torch.arange(9)[None] < 5), wanted)
    assert_close(counter(logits, boxes, ~mask), one_hot(0, 7), rtol=0, atol=1e-5)


def test_overlaps_by_hand() -> None:
    boxes = torch.tensor([[[0, 0, 0.4, 0.4], [0.2, 0.2, 0.6, 0.6], [0.5, 0, 1, 0.1], [0.0] * 4]])
    wanted = torch.tensor([[1, 1 / 7, 0, 0], [1 / 7, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    assert_close(overlaps(boxes)[0], wanted)


def test_a_piecewise_linear_function() -> None:
    function = PiecewiseLinear(4)
    x = torch.linspace(0, 1, 9)
    assert_close(function(x), x)
    function.weight.data = torch.tensor([1.0, -3.0, 0.0, 4.0])  # their sizes: 1/8, 3/8, 0, 4/8
    assert_close(function(x), torch.tensor([0, 1, 2, 5, 8, 8, 8, 12, 16]) / 16)


def features(boxes: bool) -> Features:
    tokens, mask = torch.randn(5, 7, 13), torch.ones(5, 7, dtype=torch.bool)
    corners = torch.rand(5, 7, 2, 2).sort(2).values.flatten(2) if boxes else None
    return Features(tokens, mask, boxes=corners)


@pytest.mark.parametrize("make", [partial(BAN, out_dim=17), GlimpseAttention])
def test_a_counting_fusion_needs_boxes_and_uses_them(make) -> None:
    fusion = make(13, 11, counter=ObjectCounter(5))
    image, question = features(boxes=True), torch.randn(5, 3, 11)
    before = fusion(image, question).pooled
    elsewhere = image._replace(boxes=image.boxes.flip(1) * 0.5)
    assert not torch.allclose(fusion(elsewhere, question).pooled, before, atol=1e-4)
    with pytest.raises(ValueError, match=r"image.boxes: got None; expected boxes.* needs to count"):
        fusion(features(boxes=False), question)
    assert make(13, 11)(features(boxes=False), question).pooled.shape == before.shape


def test_the_count_is_what_glimpse_attention_adds() -> None:
    fusion = GlimpseAttention(13, 11, merge=partial(Sum, out_dim=17), counter=ObjectCounter(5))
    image, question = features(boxes=True), torch.randn(5, 11)
    with_count = fusion(image, question).pooled
    logits = fusion.score(image.tokens, question[:, None])[..., 0]
    counted = fusion.counts(fusion.counter(logits, image.boxes, image.mask)).relu()
    fusion.counts.weight.data.zero_()
    fusion.counts.bias.data.zero_()
    assert_close(with_count, fusion(image, question).pooled + counted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_counts_and_has_gradients(dtype: torch.dtype) -> None:
    """Boxes stay in full precision, as `grid_boxes` makes them; one row has no patch."""
    fusion = BAN(13, 11, out_dim=17, counter=ObjectCounter(4))
    mask = torch.tensor([[True] * 6, [False] * 6])
    image = Features(
        torch.randn(2, 6, 13), mask, boxes=torch.rand(2, 6, 2, 2).sort(2).values.flatten(2)
    )
    words = torch.randn(2, 5, 11)
    expected = fusion(image, words).pooled
    half = fusion.to(dtype)
    found = half(Features(image.tokens.to(dtype), mask, boxes=image.boxes), words.to(dtype)).pooled
    assert found.dtype == dtype
    assert_close(found.float(), expected, rtol=0.1, atol=0.1)
    found.float().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in half.parameters())
