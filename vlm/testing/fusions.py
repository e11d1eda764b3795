"""What every merge and every fusion promises."""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from vlm.core.compat import tree_map_only
from vlm.core.features import Features
from vlm.fusion.attention import record_attention
from vlm.fusion.base import Fusion, Merge
from vlm.testing.promises import (
    check_batch,
    check_bf16,
    check_compiled,
    check_copies,
    check_double,
    check_features,
    check_finite_gradients,
    check_functional,
    check_gradients,
    check_large,
    check_refuses,
    own_randomness,
    prepared,
    promise,
    require,
    require_finite,
    require_same,
    take,
)
from vlm.testing.several import check_several_images

ROWS, WORDS, PATCHES = 5, 7, 11
WORD_COUNTS, PATCH_COUNTS = (7, 3, 1, 5, 2), (11, 4, 6, 1, 9)
"""Sizes of the inputs: questions and images of different lengths, one full row first."""


@own_randomness()
def check_merge(merge: Merge) -> None:
    """Check that a merge keeps the promises of `vlm.fusion.Merge`.

    It checks shapes and broadcasting, batch order and batch size, gradients (also against finite
    differences), copies and checkpoints, bf16, `torch.compile`, `torch.export`, and errors.

    Raises:
        AssertionError: a broken promise, which the message names.
    """
    merge = prepared(merge)
    x, y = torch.randn(ROWS, merge.x_dim), torch.randn(ROWS, merge.y_dim)
    many = torch.randn(ROWS, PATCHES, merge.y_dim)
    check_batch(merge, (x, y), ROWS)
    for given, inputs in {
        "(B, Dx) and (B, Dy)": (x, y),
        "(B, 1, Dx) and (B, N, Dy)": (x[:, None], many),
        "(B, N, Dx) and (B, 1, Dy)": (torch.randn(ROWS, WORDS, merge.x_dim), y[:, None]),
        "(B, N, 1, Dx) and (B, 1, M, Dy)": (torch.randn(ROWS, 3, 1, merge.x_dim), many[:, None]),
    }.items():
        check_broadcasting(merge, given, *inputs)
    check_batch(merge, (x[:, None], many), ROWS)
    check_gradients(merge, (x, y), "output")
    check_finite_gradients(merge, (x, y), "random vectors")
    check_finite_gradients(merge, (torch.zeros_like(x), torch.zeros_like(y)), "zeros")
    check_double(merge, (x[:2].clone().requires_grad_(), y[:2].clone().requires_grad_()))
    check_copies(merge, (x, y))
    check_bf16(merge, (x, y))
    check_large(merge, (x, y))
    check_compiled(merge, (x[:, None], many))
    check_functional(merge, (x[:, None], many))
    check_refuses(merge, "x that is too wide", lambda: merge(F.pad(x, (0, 1)), y))
    check_refuses(merge, "y that is too wide", lambda: merge(x, F.pad(y, (0, 1))))


def check_broadcasting(merge: Merge, given: str, x: Tensor, y: Tensor) -> None:
    leading = torch.broadcast_shapes(x.shape[:-1], y.shape[:-1])
    with promise(merge, "the result has shape (..., out_dim)", given):
        output = merge(x, y)
        expected = (*leading, merge.out_dim)
        require(output.shape == expected, f"Shape {tuple(output.shape)}, not {expected}.")
    with promise(merge, "broadcasting equals merging each pair of vectors", given):
        pairs = x.expand(*leading, -1).flatten(0, -2), y.expand(*leading, -1).flatten(0, -2)
        require_same(output.flatten(0, -2), merge(*pairs))
    with promise(merge, "both inputs matter and get a gradient", given):
        x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
        total = (merge(x, y) * torch.randn_like(output)).sum()
        for name, gradient in zip("xy", torch.autograd.grad(total, (x, y)), strict=True):
            require_finite(gradient, f"gradient of {name}")
            require(bool(gradient.any()), f"The gradient of {name} is zero.")


@own_randomness()
def check_fusion(fusion: Fusion) -> None:
    """Check that a fusion keeps the promises of `vlm.fusion.Fusion`.

    It checks that junk in the padding, more padding, batch order and batch size change nothing, and
    that empty questions and images give finite values. It also checks gradients (also against
    finite differences), the form of the joint tokens, plain tensors and masks, images that
    questions share, several images of a question, recorded attention, copies and checkpoints, bf16,
    `torch.compile`, `torch.export`, and errors. Equality is required in evaluation mode.

    Raises:
        AssertionError: a broken promise, which the message names.
        TypeError: no instance of a subclass of `vlm.fusion.Fusion`.
    """
    if not isinstance(fusion, Fusion):
        raise TypeError(
            f"fusion: got {type(fusion).__name__}; expected an instance of a subclass of "
            "vlm.fusion.Fusion, which defines `fuse(image, text)`."
        )
    fusion = prepared(fusion)
    image = some_features(fusion.image_dim, PATCH_COUNTS, PATCHES, boxes=True)
    text = some_features(fusion.text_dim, WORD_COUNTS, WORDS)
    check_joint_tokens(fusion, image, text)
    check_padding(fusion, image, text)
    check_batch(fusion, (image, text), ROWS)
    check_empty_rows(fusion, image, text)
    check_gradients(fusion, (image, text), "pooled")
    check_finite_gradients(fusion, (image, text), "ordinary features")
    check_double(fusion, (differentiable(image), differentiable(text)))
    check_plain_tensors(fusion, image, text)
    check_shared_images(fusion, image, text)
    check_several_images(fusion, image, text)
    check_attention(fusion, image, text)
    check_copies(fusion, (image, text))
    check_bf16(fusion, (image, text))
    check_large(fusion, (image, text))
    check_compiled(fusion, (image, text))
    check_functional(fusion, (image, text))
    check_errors(fusion, image, text)
    check_one_side(fusion, image, text)


def some_features(dim: int, counts: tuple[int, ...], room: int, boxes: bool = False) -> Features:
    """Random features whose row i has `counts[i]` real tokens of `room`."""
    mask = torch.arange(room) < torch.tensor(counts)[:, None]  # (B, N)
    tokens = torch.randn(len(counts), room, dim).masked_fill(~mask[..., None], 0)
    corners = torch.rand(len(counts), room, 2, 2).sort(2).values.flatten(2) if boxes else None
    return Features(tokens, mask, boxes=corners)


def padded(features: Features, junk: float, extra: int = 0) -> Features:
    """The same features with other padding: `extra` tokens more and `junk` in all of it."""
    mask = F.pad(features.mask, (0, extra))
    tokens = F.pad(features.tokens, (0, 0, 0, extra)).masked_fill(~mask[..., None], junk)
    boxes = features.boxes
    if boxes is not None:
        boxes = F.pad(boxes, (0, 0, 0, extra)).masked_fill(~mask[..., None], junk)
    return Features(tokens, mask, features.pooled, boxes)


def emptied(features: Features, rows: list[int]) -> Features:
    """The same with nothing real in these rows."""
    mask = features.mask.clone()
    mask[rows] = False
    tokens = features.tokens.masked_fill(~mask[..., None], 0)
    return Features(tokens, mask, boxes=features.boxes)


def differentiable(features: Features) -> Features:
    """The first two rows, whose tokens and pooled vectors require a gradient."""
    tokens, mask, pooled, boxes = tree_map_only(Tensor, lambda t: t[:2].clone(), features)
    return Features(tokens.requires_grad_(), mask, pooled.requires_grad_(), boxes)


def check_joint_tokens(fusion: Fusion, image: Features, text: Features) -> None:
    output = fusion(image, text)
    check_features(fusion, output, ROWS, fusion.out_dim)
    sides = (image, text) if fusion.patches_first else (text, image)
    with promise(fusion, "joint tokens are words, then patches, masks concatenated, no boxes"):
        require(output.boxes is None, "There are boxes.")
        kept = {
            WORDS: text.mask,
            PATCHES: image.mask,
            WORDS + PATCHES: torch.cat([side.mask for side in sides], 1),
        }
        count = output.mask.shape[1]
        # A number that stays when words and patches become more is of the fusion's own tokens.
        longer = fusion(padded(image, 0, extra=3), padded(text, 0, extra=2)).mask.shape[1]
        if count in kept and count != longer:
            require(output.mask.equal(kept[count]), "The mask is another.")


def check_padding(fusion: Fusion, image: Features, text: Features) -> None:
    expected = fusion(image, text)
    for junk in (1e4, float("nan")):
        for given, inputs in {
            f"{junk} in the padding of the words": (image, padded(text, junk)),
            f"{junk} in the padding of the patches": (padded(image, junk), text),
            f"2 more padded words holding {junk}": (image, padded(text, junk, extra=2)),
            f"3 more padded patches holding {junk}": (padded(image, junk, extra=3), text),
        }.items():
            with promise(fusion, "padding changes nothing", given):
                require_same(fusion(*inputs), expected)
            check_finite_gradients(fusion, inputs, given)


def check_empty_rows(fusion: Fusion, image: Features, text: Features) -> None:
    """Row 0 without patches, row 1 without words, row 2 without both."""
    inputs = (emptied(image, [0, 2]), emptied(text, [1, 2]))
    given = "rows without a word, a patch, or both"
    for training in (False, True):
        fusion.train(training)
        mode = f"{given}, {'training' if training else 'evaluation'} mode"
        check_finite_gradients(fusion, inputs, mode)
        check_features(fusion, fusion(*inputs), ROWS, fusion.out_dim)
        with promise(fusion, "record_attention works", mode), record_attention(fusion):
            check_features(fusion, fusion(*inputs), ROWS, fusion.out_dim)
    fusion.eval()
    expected = fusion(image, text)  # only now: running averages have moved in training mode
    with promise(fusion, "an empty row leaves the others as they were", given):
        require_same(take(fusion(*inputs), [3, 4]), take(expected, [3, 4]))


def check_one_side(fusion: Fusion, image: Features, text: Features) -> None:
    """Batches of which no row has a patch, or none a word."""
    none = [*range(ROWS)]
    for training in (False, True):
        fusion.train(training)
        for given, inputs in {
            "no row with a patch": (emptied(image, none), text),
            "no row with a word": (image, emptied(text, none)),
        }.items():
            mode = f"{given}, {'training' if training else 'evaluation'} mode"
            check_finite_gradients(fusion, inputs, mode)
            check_features(fusion, fusion(*inputs), ROWS, fusion.out_dim)
    fusion.eval()


def check_plain_tensors(fusion: Fusion, image: Features, text: Features) -> None:
    if fusion.needs_boxes:  # which plain tensors have not
        for tensor in (image.pooled, image.tokens, image._replace(boxes=None)):
            check_refuses(fusion, "an image without boxes", partial(fusion, tensor, text))
        return
    for given, inputs in {
        "(B, D) and (B, D)": (image.pooled, text.pooled),
        "(B, N, D) and (B, N, D)": (image.tokens, text.tokens),
        "(B, N, D) and (B, D)": (image.tokens, text.pooled),
    }.items():
        with promise(fusion, "plain tensors are welcome", given):
            output = fusion(*inputs)
        check_features(fusion, output, ROWS, fusion.out_dim)
    with promise(fusion, "a mask beside tokens counts as their own"):
        beside = fusion(image.tokens, text.tokens, image.mask, text_mask=text.mask.long())
        pairs = (image.tokens, image.mask), (text.tokens, text.mask)
        require_same(beside, fusion(Features(*pairs[0]), Features(*pairs[1])))
        require_same(beside, fusion(*pairs))


def check_shared_images(fusion: Fusion, image: Features, text: Features) -> None:
    index, given = torch.tensor([0, 2, 0, 1, 2]), "3 images for 5 questions"
    # In double precision: the slope of a square root near zero magnifies rounding.
    fusion = copy.deepcopy(fusion).double()
    image, text = tree_map_only(
        Tensor, lambda t: t.double() if t.dtype != torch.bool else t, (image, text)
    )
    tokens = image.tokens[:3].clone().requires_grad_()
    boxes = None if image.boxes is None else image.boxes[:3]
    image = Features(tokens, image.mask[:3], boxes=boxes)
    expected = fusion(image.take(index), text)
    with promise(fusion, "`image_index` equals gathering the images", given):
        fused = fusion(image, text, image_index=index)
        require_same(fused, expected)
    with promise(fusion, "`image_index` equals gathering the images, in its gradients", given):
        leaves = [tokens, *(p for p in fusion.parameters() if p.requires_grad)]
        for pair in zip(gradients(fused, leaves), gradients(expected, leaves), strict=True):
            require_same(*pair)
    with promise(fusion, "`keep` prepares images for later questions", given):
        require_same(fusion(fusion.keep(image), text, image_index=index), expected)
    with promise(fusion, "recorded maps have a row for each question", given):
        with record_attention(fusion) as maps:
            fusion(image, text, image_index=index)
        for name, passes in maps.items():
            require(all(len(weights) == ROWS for weights in passes), f"{name!r} has other rows.")


def gradients(output: Features, leaves: list[Tensor]) -> tuple[Tensor, ...]:
    """Gradients of a nonlinear function of the real tokens and the pooled vector."""
    total = output.pooled.sin().sum() + output.tokens[output.mask].sin().sum()
    return torch.autograd.grad(total, leaves, retain_graph=True, materialize_grads=True)


def check_attention(fusion: Fusion, image: Features, text: Features) -> None:
    expected = fusion(image, text)
    image, text = padded(image, 1e4), padded(text, 1e4)
    with promise(fusion, "recording attention leaves the result as it is"):
        with record_attention(fusion) as maps:
            output = fusion(image, text)
        require_same(output, expected)
    real = image.mask[:, None, None, :] & text.mask[:, None, :, None]  # (B, 1, L, P)
    for name, passes in maps.items():
        with promise(fusion, "maps are (B, H, words, patches) or (B, G, patches)", f"map {name!r}"):
            require(len(passes) > 0, "No map was recorded.")
            for weights in passes:
                form = (weights.shape[0], *weights.shape[2:])
                forms = ((ROWS, WORDS, PATCHES), (ROWS, PATCHES))
                require(form in forms, f"Shape {tuple(weights.shape)}.")
                require_finite(weights, "weights")
        with promise(fusion, "maps are zero in the padding", f"map {name!r}"):
            for weights in passes:
                inside = real if weights.ndim == 4 else image.mask[:, None]
                highest = weights.masked_fill(inside, 0).abs().max().item()
                require(highest == 0, f"There is a weight of {highest:.2g}.")
        with promise(fusion, "maps are shares: not negative, some above zero", f"map {name!r}"):
            for weights in passes:
                require(weights.min().item() >= 0, "There is a negative weight.")
                empty = (weights.flatten(1).sum(1) == 0).sum().item()
                require(not empty, f"{empty} of {ROWS} rows are all zero.")


def check_errors(fusion: Fusion, image: Features, text: Features) -> None:
    for given, wrong_image, wrong_text in (
        ("an image that is too wide", F.pad(image.tokens, (0, 1)), text),
        ("a question that is too wide", image, F.pad(text.tokens, (0, 1))),
        ("fewer questions than images", image, text.tokens[1:]),
        ("an integer mask", image._replace(mask=image.mask.long()), text),
        ("a mask of another length", image, text._replace(mask=text.mask[:, 1:])),
        ("a four-dimensional image", image.tokens[:, None], text),
        ("a four-dimensional question", image, text.tokens[:, None]),
    ):
        check_refuses(fusion, given, partial(fusion, wrong_image, wrong_text))
    for given, index in (
        ("an image index for fewer questions", torch.zeros(ROWS - 1, dtype=torch.int64)),
        ("an image index of bools", torch.zeros(ROWS, dtype=torch.bool)),
    ):
        check_refuses(fusion, given, partial(fusion, image, text, image_index=index))
