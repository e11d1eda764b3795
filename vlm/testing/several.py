"""What a fusion promises of questions about several images."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from vlm.core.compat import tree_map_only
from vlm.core.features import Features
from vlm.core.part import build
from vlm.fusion.base import Fusion
from vlm.testing.promises import promise, require, require_finite, require_same, take

LISTS = ((0, 1, 2), (3, -1, -1), (1, 0, 2), (4, 2, -1), (0, -1, -1))
"""Of five questions, about five images; the first and the third differ in the order alone."""


def check_several_images(fusion: Fusion, image: Features, text: Features) -> None:
    """Check a copy of a fusion with `take_images`, for questions with one to three images."""
    # In double precision, as for shared images.
    single = copy.deepcopy(fusion).double()
    image, text = tree_map_only(
        Tensor, lambda t: t.double() if t.dtype != torch.bool else t, (image, text)
    )
    several, lists = copy.deepcopy(single), torch.tensor(LISTS)
    several.take_images(lists.shape[1])
    assert several.image_numbers is not None
    several.image_numbers.data = several.image_numbers.double()
    with promise(fusion, "numbers of images change nothing at first", "one image a question"):
        plain = image._replace(boxes=None)
        if not fusion.needs_boxes:  # which lie in a row of images now
            require_same(several(plain, text), single(plain, text))
    nn.init.normal_(several.image_numbers, std=0.5)
    with promise(fusion, "several images of a question are seen together", f"the lists {LISTS}"):
        fused = several(image, text, image_lists=lists)
        require_finite(fused.pooled, "pooled")
    for row, own in enumerate(LISTS):
        with promise(fusion, "a question with its images alone gives the same", f"the list {own}"):
            rows = [number for number in own if number >= 0]
            alone = several(
                take(image, rows), take(text, [row]), image_lists=torch.arange(len(rows))[None]
            )
            require_same(take(fused, [row]), alone)
    with promise(fusion, "a list of one image is that image"):
        require_same(
            several(image, text, image_lists=torch.arange(len(LISTS))[:, None]),
            several(image, text),
        )
    with promise(fusion, "`image_index` names a list"):
        index = torch.tensor([4, 4, 0, 1, 2])
        require_same(
            several(image, text, image_index=index, image_lists=lists),
            several(image, text, image_lists=lists[index]),
        )
        kept = several.keep(image, image_lists=lists)
        require_same(
            several(kept, text, image_index=index),
            several(image, text, image_index=index, image_lists=lists),
        )
    with promise(fusion, "the order of the images counts, also in `pooled`"):
        same = take(text, [0, 0])
        one, other = several(image, same, image_lists=lists[[0, 2]]).pooled
        require(not torch.allclose(one, other), "Two orders give one result.")
    with promise(fusion, "each number gets a gradient from `pooled` alone"):
        total = several(image, text, image_lists=lists).pooled.sin().sum()
        (found,) = torch.autograd.grad(total, several.image_numbers)
        require_finite(found, "gradient")
        require(bool(found.flatten(2).any(2).all()), "The gradient of a number is zero.")
    with promise(fusion, "a configuration keeps the number of images"):
        built = build(several.config, trust=True)
        require(built.max_images == several.max_images, f"Got {built.max_images}.")
