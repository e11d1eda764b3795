"""`Features`, plain tensors used in its place, and masks."""

from __future__ import annotations

import copy
import inspect
import pickle
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from transformers.modeling_outputs import BaseModelOutput

import vlm
from vlm.core.features import Features, as_features, masked_max, masked_mean, masked_softmax

B, N, D = 3, 5, 7


@pytest.fixture
def features() -> Features:
    torch.manual_seed(0)
    mask = torch.arange(N) < torch.tensor([5, 2, 0])[:, None]
    return Features(torch.randn(B, N, D), mask, torch.randn(B, D), torch.rand(B, N, 4))


def test_take(features: Features) -> None:
    index = torch.tensor([2, 0, 0, 1])
    taken = features.take(index)
    for got, whole in zip(taken, features, strict=True):
        assert torch.equal(got, torch.stack([whole[i] for i in index]))
    assert features._replace(boxes=None).take(index).boxes is None


def test_zero_padding(features: Features) -> None:
    tokens = features.tokens.masked_fill(~features.mask[..., None], float("nan"))
    cleaned = features._replace(tokens=tokens).zero_padding()
    assert torch.equal(cleaned.tokens[features.mask], features.tokens[features.mask])
    assert not cleaned.tokens[~features.mask].any()
    assert cleaned.tokens[~features.mask].isfinite().all()
    whole = Features(features.tokens)
    assert whole.zero_padding().tokens is whole.tokens  # no copy where nothing is padded


def test_goes_through_pytree(features: Features) -> None:
    moved = tree_map(lambda leaf: leaf.double() if leaf.is_floating_point() else leaf, features)
    assert isinstance(moved, Features)
    assert moved.tokens.dtype == torch.float64


@pytest.mark.parametrize("mask", [(), (None,)])
def test_without_a_mask_all_tokens_are_real(mask: tuple[None, ...]) -> None:
    tokens = torch.randn(B, N, D)
    features = Features(tokens, *mask)
    assert features.tokens is tokens
    assert features.mask.dtype == torch.bool
    assert features.mask.shape == (B, N)
    assert features.mask.all()
    torch.testing.assert_close(features.pooled, tokens.mean(1))
    assert features.boxes is None


def test_without_a_pooled_vector_it_is_the_mean_of_the_real_tokens(features: Features) -> None:
    tokens, mask, _, boxes = features
    pooled = Features(tokens, mask, boxes=boxes).pooled
    expected = torch.stack([tokens[0].mean(0), tokens[1, :2].mean(0), torch.zeros(D)])
    torch.testing.assert_close(pooled, expected)


def test_a_pooled_vector_of_ones_own_is_kept() -> None:
    pooled = torch.randn(B, D)
    features = Features(torch.randn(B, N, D), pooled=pooled)
    assert features.pooled is pooled
    assert features.mask.all()


def test_the_fields_are_those_of_a_named_tuple(features: Features) -> None:
    assert Features._fields == ("tokens", "mask", "pooled", "boxes")
    pooled = torch.zeros(B, D)
    replaced = features._replace(pooled=pooled)
    assert type(replaced) is Features
    assert replaced.pooled is pooled
    assert replaced.tokens is features.tokens
    assert Features._make(features) == features
    assert features._asdict()["boxes"] is features.boxes


@pytest.mark.parametrize(
    "through",
    [
        copy.copy,
        copy.deepcopy,
        lambda features: pickle.loads(pickle.dumps(features)),
        lambda features: move_data_to_device(features, "cpu"),
        lambda features: tree_unflatten(*tree_flatten(features)),
    ],
    ids=["copy", "deepcopy", "pickle", "lightning", "pytree"],
)
@pytest.mark.parametrize("boxes", [True, False])
def test_copies_have_the_same_values(features: Features, through: Any, boxes: bool) -> None:
    features = features if boxes else features._replace(boxes=None)
    copied = through(features)
    assert type(copied) is Features
    for got, expected in zip(copied, features, strict=True):
        assert expected is got is None or torch.equal(got, expected)


def test_leaves_of_nothing_stay_nothing(features: Features) -> None:
    """`tree_map` keeps None leaves, as in missing gradients or an export's dynamic shapes."""
    assert tree_map(lambda leaf: None, features) == (None, None, None, None)
    only_tokens = tree_map(lambda leaf: leaf if leaf is features.tokens else None, features)
    assert tuple(only_tokens) == (features.tokens, None, None, None)


class Doubles(torch.nn.Module):
    def forward(self, features: Features) -> Features:
        return Features(features.tokens * 2, features.mask).take(torch.tensor([1, 0]))


def test_is_made_in_compiled_and_exported_code(features: Features) -> None:
    features = features._replace(boxes=None)
    expected = Doubles()(features)
    torch.compiler.reset()
    compiled = torch.compile(Doubles(), backend="aot_eager", fullgraph=True)(features)
    torch.compiler.reset()
    exported = torch.export.export(Doubles(), (features,)).module()(features)
    for got in (compiled, exported):
        assert type(got) is Features
        assert got.boxes is None
        for one, other in zip(got[:3], expected[:3], strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("counts", "boxes", "expected"),
    [
        ([5, 5, 5], False, "Features(3 x 5 x 7, 5 real)"),
        ([5, 2, 0], False, "Features(3 x 5 x 7, 0-5 real)"),
        ([4, 4, 4], True, "Features(3 x 5 x 7, 4 real, boxes)"),
        ([], False, "Features(0 x 5 x 7, 0 real)"),
    ],
)
def test_repr(counts: list[int], boxes: bool, expected: str) -> None:
    mask = torch.arange(N) < torch.tensor(counts, dtype=torch.long)[:, None]
    corners = torch.rand(len(counts), N, 4) if boxes else None
    assert repr(Features(torch.randn(len(counts), N, D), mask, boxes=corners)) == expected


def test_the_signature_says_what_an_argument_left_out_is() -> None:
    shown = str(inspect.signature(Features))
    assert "mask: 'Tensor' = <all real>, pooled: 'Tensor' = <mean of the real tokens>" in shown


def test_repr_without_values(features: Features) -> None:
    meta = tree_map(lambda leaf: leaf.to("meta"), features)
    assert repr(meta) == "Features(3 x 5 x 7, boxes)"
    assert repr(tree_map(lambda leaf: 0, features)) == "Features(int, int, int, int)"
    unmasked = features._replace(mask=None, boxes=None)
    assert repr(unmasked) == "Features(3 x 5 x 7)"


def test_pooled_vectors_are_one_token() -> None:
    pooled = torch.randn(B, D)
    features = as_features(pooled, "image")
    assert torch.equal(features.tokens, pooled[:, None])
    assert torch.equal(features.mask, torch.ones(B, 1, dtype=torch.bool))
    assert torch.equal(features.pooled, pooled)
    assert features.boxes is None


def test_tokens_are_mean_pooled() -> None:
    tokens = torch.randn(B, N, D)
    features = as_features(tokens, "image")
    assert torch.equal(features.tokens, tokens)
    assert features.mask.all()
    torch.testing.assert_close(features.pooled, tokens.mean(1))


def test_no_token_at_all_is_zero() -> None:
    features = as_features(torch.randn(B, 0, D), "image")
    assert torch.equal(features.pooled, torch.zeros(B, D))


def test_features_pass_unchanged(features: Features) -> None:
    for got, wanted in zip(as_features(features, "image"), features, strict=True):
        assert got is wanted


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": torch.zeros(B, D)}, r"image.tokens: got shape \(3, 7\); expected three dim"),
        ({"mask": torch.ones(B, N)}, r"image.mask: got dtype torch.float32; expected torch.bool"),
        (
            {"mask": torch.ones(B, N, dtype=torch.long)},
            r"image.mask: got dtype torch.int64.*`mask.bool\(\)`",
        ),
        (
            {"mask": torch.ones(B, 2, N, dtype=torch.bool)},
            r"image.mask: got shape \(3, 2, 5\); expected \(3, 5\)",
        ),
        ({"pooled": torch.zeros(B, D + 1)}, r"image.pooled: got shape \(3, 8\); expected \(3, 7\)"),
        ({"boxes": torch.zeros(B, N, 2)}, r"image.boxes: got shape \(3, 5, 2\); .*\(3, 5, 4\)"),
    ],
)
def test_parts_must_agree(features: Features, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_features(features._replace(**change), "image")


@pytest.mark.parametrize("shape", [(D,), (B, 2, N, D), ()])
def test_other_tensors(shape: tuple[int, ...]) -> None:
    message = rf"text: got a {len(shape)}-D tensor of shape .*expected pooled vectors \(B, D\)"
    with pytest.raises(ValueError, match=message):
        as_features(torch.zeros(shape), "text")


@pytest.mark.parametrize("reduce", [masked_mean, masked_max])
@pytest.mark.parametrize("junk", [1e30, -1e30, float("nan"), float("inf"), float("-inf")])
def test_reductions_ignore_padding(reduce: Any, features: Features, junk: float) -> None:
    tokens = features.tokens.masked_fill(~features.mask[..., None], junk).requires_grad_()
    got = reduce(tokens, features.mask)
    plain = torch.mean if reduce is masked_mean else torch.amax
    wanted = torch.stack([plain(tokens[0], 0), plain(tokens[1, :2], 0), torch.zeros(D)])
    torch.testing.assert_close(got, wanted)
    (gradient,) = torch.autograd.grad(got.sum(), tokens)
    assert gradient.isfinite().all()
    assert not gradient[~features.mask].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_reductions_keep_the_number_type(dtype: torch.dtype, features: Features) -> None:
    tokens = features.tokens.to(dtype)
    assert masked_mean(tokens, features.mask).dtype == dtype
    assert masked_max(tokens, features.mask).dtype == dtype
    assert masked_softmax(tokens, features.mask[..., None], 1).dtype == dtype


def test_softmax_sums_to_one_or_zero(features: Features) -> None:
    weights = masked_softmax(features.tokens * 100, features.mask[..., None], dim=1)
    wanted = torch.tensor([1.0, 1.0, 0.0])[:, None].expand(B, D)
    torch.testing.assert_close(weights.sum(1), wanted)
    assert not weights[~features.mask].any()


def test_softmax_without_padding_is_torchs(features: Features) -> None:
    mask: Tensor = torch.ones(B, N, 1, dtype=torch.bool)
    wanted = features.tokens.softmax(1)
    torch.testing.assert_close(masked_softmax(features.tokens, mask, 1), wanted)


def test_maximum_of_no_tokens() -> None:
    none = torch.ones(2, 0, 3), torch.ones(2, 0, dtype=torch.bool)
    assert masked_max(*none).equal(torch.zeros(2, 3))


def test_another_device_is_named() -> None:
    features = Features(torch.ones(1, 2, 3), torch.ones(1, 2, dtype=bool), torch.ones(1, 3))
    elsewhere = features._replace(mask=features.mask.to("meta"))
    with pytest.raises(
        ValueError, match=r"image: got tokens, mask and pooled on cpu, meta and cpu"
    ):
        as_features(elsewhere, "image")


@pytest.mark.parametrize("value", [None, [[1.0]], (torch.ones(1, 1, 1),) * 3])
def test_what_is_no_features_is_named(value: object) -> None:
    with pytest.raises(
        ValueError, match=rf"image: got {type(value).__name__}; expected `Features`"
    ):
        as_features(value, "image")


def test_the_mean_of_many_tokens_stays_in_float16() -> None:
    tokens = torch.full((2, 100, 3), 3e4, dtype=torch.float16)
    mask = torch.ones(2, 100, dtype=torch.bool)
    mean = masked_mean(tokens, mask)
    assert mean.dtype == torch.float16
    assert (mean == 3e4).all()


MASK = torch.arange(N) < torch.tensor([5, 2, 0])[:, None]


@dataclass
class Output:
    """An output like those of transformers."""

    last_hidden_state: Tensor
    pooler_output: Tensor | None = None


@pytest.mark.parametrize(
    "given",
    [
        lambda tokens, mask: (tokens, mask),
        lambda tokens, mask: ((tokens, mask), None),
        lambda tokens, mask: (Output(tokens, tokens[:, 0]), mask),
        lambda tokens, mask: ((Output(tokens), mask), None),
        lambda tokens, mask: (BaseModelOutput(last_hidden_state=tokens), mask),
    ],
    ids=["mask beside", "pair", "output", "pair of an output", "transformers"],
)
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8])
def test_tokens_with_a_mask(features: Features, given: Any, dtype: torch.dtype) -> None:
    value, mask = given(features.tokens, features.mask.to(dtype))
    got = as_features(value, "text", mask)
    expected = Features(features.tokens, features.mask)
    assert got.mask.dtype == torch.bool
    for one, other in zip(got[:3], expected[:3], strict=True):
        assert torch.equal(one, other)


def test_an_output_without_a_mask(features: Features) -> None:
    got = as_features(BaseModelOutput(last_hidden_state=features.tokens), "text")
    assert got.mask.all()
    torch.testing.assert_close(got.pooled, features.tokens.mean(1))


@pytest.mark.parametrize(
    ("mask", "named"),
    [
        (MASK.float(), "torch.float32.*mask == 0"),
        (MASK * torch.tensor(2), "value 2"),
        (MASK.long() - 1, "value -1"),
        (MASK[:, 1:], r"\(3, 4\).*\(3, 5\)"),
        (MASK[None], r"\(1, 3, 5\).*\(3, 5\)"),
        (MASK.tolist(), r"list.*\(3, 5\)"),
        (MASK.to("meta"), r"meta.*cpu"),
    ],
)
def test_other_masks(features: Features, mask: Any, named: str) -> None:
    with pytest.raises(ValueError, match=f"text_mask: .*{named}"):
        as_features(features.tokens, "text", mask)
    with pytest.raises(ValueError, match=rf"text\[1\]: .*{named}"):
        as_features((features.tokens, mask), "text")


@pytest.mark.parametrize("value", ["features", "pair", "pooled"])
def test_one_mask_is_enough(features: Features, value: str) -> None:
    given = {
        "features": features,
        "pair": (features.tokens, features.mask),
        "pooled": features.pooled,
    }[value]
    with pytest.raises(ValueError, match=r"image(_mask)?: .*mask"):
        as_features(given, "image", features.mask)


def test_an_output_without_tokens() -> None:
    with pytest.raises(ValueError, match="text: got BaseModelOutput"):
        as_features(BaseModelOutput(), "text")


def test_the_arithmetic_of_masks_is_public() -> None:
    for function in (masked_mean, masked_max, masked_softmax):
        assert getattr(vlm, function.__name__) is function
        assert function.__name__ in vlm.__all__
