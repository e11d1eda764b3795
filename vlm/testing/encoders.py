"""What every image encoder and every text encoder promises."""

from __future__ import annotations

import copy
import pickle
import warnings
from functools import partial
from typing import TYPE_CHECKING

import torch

from vlm.core.features import Features
from vlm.testing.promises import (
    check_features,
    check_finite_gradients,
    check_gradients,
    check_refuses,
    check_ways_to_run,
    own_randomness,
    prepared,
    promise,
    require,
    require_same,
    take,
)

if TYPE_CHECKING:
    from vlm.image.base import ImageEncoder, PixelEncoder
    from vlm.image.canvas import CanvasTransform
    from vlm.text.base import TextEncoder

ROWS = 5


@own_randomness()
def check_image_encoder(encoder: ImageEncoder) -> None:
    """Check that an image encoder keeps the promises of `vlm.image.ImageEncoder`.

    It checks that uint8 and float images agree; that the borders of a transform that pads are
    masked and change nothing; that, if a transform keeps any aspect ratio, boxes refer to the whole
    image and cover it; and that batch order and batch size change nothing. It also checks the form
    of tokens, mask and boxes, gradients from `pooled` alone and from `tokens` alone (in training
    mode), number types, copies and checkpoints, bf16, `torch.compile`, `torch.export`, and errors.
    For an encoder of regions, it checks that padding and junk in it change nothing.

    Raises:
        AssertionError: a broken promise, which the message names.
    """
    from vlm.image.base import PixelEncoder  # not above: fusions are checked without Pillow

    encoder = prepared(encoder)
    if isinstance(encoder, PixelEncoder):
        check_images(encoder)
    else:
        check_regions(encoder)


def check_images(encoder: PixelEncoder) -> None:
    from vlm.image.canvas import CanvasTransform

    channels, height, width = encoder.transform.shape
    images = torch.randint(256, (ROWS, channels, height, width), dtype=torch.uint8)
    images[:, 3:] = 255  # all of it photo
    if isinstance(encoder.transform, CanvasTransform):
        images = photos(encoder.transform)
        check_aspects(encoder, images)
    elif encoder.length == encoder.grid[0] * encoder.grid[1]:
        check_grid(encoder, images)
    if channels == 4 and not isinstance(encoder.transform, CanvasTransform):
        images[1, 3, :, width // 2 + 1 :] = 0
        images[2, 3, : height // 2] = 0
    if channels == 4:
        check_borders(encoder, images)
    with promise(encoder, "uint8 in [0, 255] and float in [0, 1] give the same"):
        require_same(encoder(images / 255), encoder(images))
    with promise(encoder, "the result has the number type of the weights", "float64 weights"):
        doubled = copy.deepcopy(encoder).double()
        for pixels in (images, images / 255):
            output = doubled(pixels)
            types = {output.tokens.dtype, output.pooled.dtype}
            require(types == {torch.float64}, f"It is {types}.")
    check_ways_to_run(encoder, (images,), ROWS)
    for source in ("pooled", "real tokens"):
        check_gradients(encoder.train(), (images,), source)
    encoder.eval()
    wrong = {
        "images that are too wide": torch.zeros(ROWS, channels, height, width + 1),
        "an image without a batch": images[0],
        "grey images": images[:, :1],
        "int64 images": images.long(),
    }
    for given, wrong_images in wrong.items():
        check_refuses(encoder, given, partial(encoder, wrong_images))


def check_borders(encoder: PixelEncoder, images: torch.Tensor) -> None:
    """Of a transform that pads: the fourth channel is 0 in the borders, which nothing reads."""
    from vlm.image.canvas import CanvasTransform

    expected = encoder(images)
    rows, columns = encoder.grid
    with promise(encoder, "cells that hold nothing of the photo are masked, and no others"):
        cells = torch.nn.functional.adaptive_max_pool2d(images[:, 3].float(), (rows, columns))
        require(
            isinstance(encoder.transform, CanvasTransform)
            or encoder.length != rows * columns
            or expected.mask.equal(cells.flatten(1) > 0),
            f"{expected.mask.sum(1).tolist()} are real.",
        )
        require(not expected.mask.all(), "None is masked.")
    check_features(encoder, expected, ROWS, encoder.dim)
    with promise(encoder, "the borders change nothing", "other colours there"):
        other = torch.where(images[:, 3:] > 0, images, 255 - images)
        other[:, 3:] = images[:, 3:]
        require_same(encoder(other), expected)
        largest = torch.where(expected.mask[..., None], expected.tokens, -torch.inf).amax(1)
        inside = (expected.pooled <= largest + 1e-5).all()
        require(bool(inside), "pooled is larger than every real token.")


def photos(transform: CanvasTransform) -> torch.Tensor:
    """Photos of several aspects and sizes, as the transform makes them."""
    from PIL import Image

    sizes = ((97, 61), (40, 160), (300, 31), (64, 64), (5, 9))[:ROWS]
    noise = [torch.randint(256, (h, w, 3), dtype=torch.uint8).numpy() for w, h in sizes]
    return transform.stack([transform(Image.fromarray(each)) for each in noise])


def check_aspects(encoder: PixelEncoder, images: torch.Tensor) -> None:
    """Of a transform that keeps any aspect."""
    output = encoder(images)
    check_features(encoder, output, ROWS, encoder.dim)
    with promise(encoder, "there are `length` tokens, of which each image has one at least"):
        expected = (ROWS, encoder.length, encoder.dim)
        require(
            output.tokens.shape == expected, f"Shape {tuple(output.tokens.shape)}, not {expected}."
        )
        require(bool(output.mask.any(1).all()), f"{output.mask.sum(1).tolist()} are real.")
    with promise(encoder, "boxes are in the whole image, and together they cover it"):
        if output.boxes is None:
            raise AssertionError("There are none.")
        low, high = output.boxes[output.mask].split(2, 1)
        require(bool((low >= 0).all() and (low < high).all() and (high <= 1).all()), "They do not.")
        for boxes, mask in zip(output.boxes, output.mask, strict=True):
            low, high = boxes[mask].split(2, 1)
            at = torch.rand(99, 1, 2)
            covered = ((low <= at) & (at <= high)).all(2).any(1)
            require(bool(covered.all()), f"{int((~covered).sum())} of 99 points are in none.")
    with promise(encoder, "a photo that is mirrored has the mirrored places"):
        flipped = encoder(images.flip(-1))
        require(flipped.mask.sum(1).equal(output.mask.sum(1)), "It has another number of tokens.")


def check_regions(encoder: ImageEncoder) -> None:
    mask = torch.arange(7) < torch.tensor((7, 3, 1, 5, 2))[:, None]  # (B, N)
    tokens, boxes = torch.randn(ROWS, 7, encoder.dim), torch.rand(ROWS, 7, 4)
    regions = Features(tokens, mask, boxes=boxes)
    expected = encoder(regions)
    check_features(encoder, expected, ROWS, encoder.dim)
    with promise(encoder, "each region has its box, in [0, 1]"):
        found = expected.boxes
        if found is None or found.shape != (ROWS, 7, 4):
            raise AssertionError("There are none.")
        require(found[mask].equal(boxes[mask]), "They are others.")
    with promise(encoder, "padding changes nothing", "NaN in the padding"):
        nan = [torch.where(mask[..., None], x, torch.nan) for x in (tokens, boxes)]
        output = encoder(regions._replace(tokens=nan[0], boxes=nan[1]))
        require_same(output, expected)
        finite = output.boxes is not None and bool(output.boxes.isfinite().all())
        require(finite, "NaN in the boxes.")
    for row, count in enumerate(mask.sum(1).tolist()):
        given = f"row {row} alone, cut to its {count} regions"
        with promise(encoder, "padding changes nothing", given):
            cut = [x[[row], :count] for x in (tokens, mask, boxes)]
            alone = encoder(Features(cut[0], cut[1], regions.pooled[[row]], cut[2]))
            require_same(alone, take(expected, [row]))
    with promise(encoder, "the result has the number type of the model", "float64"):
        doubled = copy.deepcopy(encoder).double()(regions)
        types = {doubled.tokens.dtype, doubled.pooled.dtype}
        require(types == {torch.float64}, f"It is {types}.")
    check_ways_to_run(encoder, (regions,), ROWS)
    wrong = {
        "features that are too wide": regions._replace(
            tokens=torch.zeros(ROWS, 7, encoder.dim + 1), pooled=torch.zeros(ROWS, encoder.dim + 1)
        ),
        "regions without boxes": regions._replace(boxes=None),
        "images": torch.zeros(ROWS, 3, 5, 7),
    }
    for given, images in wrong.items():
        check_refuses(encoder, given, partial(encoder, images))


def check_grid(encoder: PixelEncoder, images: torch.Tensor) -> None:
    from vlm.image.base import grid_boxes

    output = encoder(images)
    check_features(encoder, output, ROWS, encoder.dim)
    rows, columns = encoder.grid
    with promise(encoder, "there is one real token for each cell of `grid`"):
        expected = (ROWS, rows * columns, encoder.dim)
        require(
            output.tokens.shape == expected, f"Shape {tuple(output.tokens.shape)}, not {expected}."
        )
        require(bool(output.mask.all()), "Some are masked.")
    with promise(encoder, "boxes are the cells of `grid`, row by row, in [0, 1]"):
        if output.boxes is None:
            raise AssertionError("There are none.")
        require_same(output.boxes, grid_boxes(rows, columns).expand(ROWS, -1, -1))


@own_randomness()
def check_text_encoder(encoder: TextEncoder) -> None:
    """Check that a text encoder keeps the promises of `vlm.text.TextEncoder`.

    It checks that padding, junk ids in it, batch order and batch size change nothing, and that
    empty questions give finite values. It also checks gradients from `pooled` alone and from
    `tokens` alone, the tokenizer's ids, unknown words, truncation and pickling, copies and
    checkpoints, bf16, `torch.compile`, `torch.export`, and errors.

    Raises:
        AssertionError: a broken promise, which the message names.
    """
    encoder = prepared(encoder)
    length = min(7, encoder.tokenizer.max_length - 2)
    mask = torch.arange(length) < torch.tensor((length, 3, 1, 4, 2))[:, None]  # (B, L)
    ids = torch.randint(encoder.tokenizer.vocab_size - 1, (ROWS, length))
    ids = ids + (ids >= encoder.tokenizer.pad_id)  # any id but that of padding
    with promise(encoder, "words have no boxes"):
        require(encoder(ids, mask).boxes is None, "There are some.")
    check_features(encoder, encoder(ids, mask), ROWS, encoder.dim)
    check_padding(encoder, ids, mask)
    check_empty_question(encoder, ids, mask)
    check_tokenizer(encoder)
    check_ways_to_run(encoder, (ids, mask), ROWS)
    for source in ("pooled", "real tokens"):
        check_gradients(encoder, (ids, mask), source)
    check_refuses(encoder, "an integer mask", lambda: encoder(ids, mask.long()))
    check_refuses(encoder, "a mask of another length", lambda: encoder(ids, mask[:, 1:]))
    check_refuses(encoder, "ids of one question without a batch", lambda: encoder(ids[0], mask[0]))


def check_padding(encoder: TextEncoder, ids: torch.Tensor, mask: torch.Tensor) -> None:
    expected = encoder(ids, mask)
    longer = torch.cat((ids, ids[:, :2]), 1), torch.cat((mask, torch.zeros_like(mask[:, :2])), 1)
    last = encoder.tokenizer.vocab_size - 1
    for given, inputs in {
        "other ids in the padding": (ids.where(mask, last), mask),
        "ids of -100 in the padding": (ids.where(mask, -100), mask),
        "2 more padded words": longer,
    }.items():
        with promise(encoder, "padding changes nothing", given):
            require_same(encoder(*inputs), expected)
    for row, count in enumerate(mask.sum(1).tolist()):
        given = f"row {row} alone, cut to its {count} words"
        with promise(encoder, "padding changes nothing", given):
            alone = encoder(ids[[row], :count], mask[[row], :count])
            require_same(alone.pooled, expected.pooled[[row]])
            require_same(alone.tokens[0], expected.tokens[row, :count])


def check_empty_question(encoder: TextEncoder, ids: torch.Tensor, mask: torch.Tensor) -> None:
    fewer = mask.clone()
    fewer[0] = False
    for training in (True, False):
        encoder.train(training)
        given = f"row 0 without a word, {'training' if training else 'evaluation'} mode"
        check_features(encoder, encoder(ids, fewer), ROWS, encoder.dim)
        check_features(encoder, encoder(ids, torch.zeros_like(mask)), ROWS, encoder.dim)
        check_finite_gradients(encoder, (ids, fewer), given)
    with promise(encoder, "an empty question leaves the others as they were"):
        require_same(encoder(ids, fewer).pooled[1:], encoder(ids, mask).pooled[1:])


def check_tokenizer(encoder: TextEncoder) -> None:
    tokenizer = encoder.tokenizer
    questions = ["What colour is it?", "", "qzxjw vvkzq", "is it " * tokenizer.max_length]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the last one, which is cut
        ids, mask = tokenizer(questions)
    with warnings.catch_warnings(record=True) as caught, promise(encoder, "the tokenizer pickles"):
        warnings.simplefilter("always")
        copied = pickle.loads(pickle.dumps(tokenizer))
        require(copied(questions)[0].equal(ids), "The copy gives other ids.")
    with promise(encoder, "ids are int64 below `vocab_size`, the mask bool, padding at the end"):
        require((ids.dtype, mask.dtype) == (torch.int64, torch.bool), f"{ids.dtype}, {mask.dtype}")
        require(
            0 <= int(ids.min()) <= int(ids.max()) < tokenizer.vocab_size, f"Largest {ids.max()}"
        )
        require(mask.equal(mask.sort(1, descending=True).values), "Padding before a word.")
        require(bool((ids[~mask] == tokenizer.pad_id).all()), "Padding has other ids than pad_id.")
    with promise(encoder, "no question has more tokens than `max_length`"):
        require(int(mask.sum(1).max()) <= tokenizer.max_length, f"There are {mask.sum(1).max()}.")
    with promise(encoder, "questions that are cut are counted, and the first one is warned of"):
        expected = sum(copied.length(question) > copied.max_length for question in questions)
        require(copied.cut == expected > 0, f"The count is {copied.cut}, not {expected}.")
        require(any("Questions cut" in str(w.message) for w in caught), "There is no warning.")
    for question, count in zip(questions, mask.sum(1).tolist(), strict=True):
        with promise(encoder, "`tokenizer.tokens` has the text of each token", repr(question[:20])):
            texts = tokenizer.tokens(question)
            require(len(texts) == count, f"{len(texts)} texts for {count} tokens.")
            require(all(isinstance(text, str) for text in texts), "Not all are strings.")
    with promise(encoder, "`tokenizer.unknown` gives words of the question", repr(questions[2])):
        unknown = tokenizer.unknown(questions[2])
        require(set(unknown) <= set(questions[2].split()), f"It gives {unknown}.")
    check_features(encoder, encoder(ids, mask), len(questions), encoder.dim)
