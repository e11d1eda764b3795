"""Several images as one: their tokens in a row, each marked with the number of its image."""

from __future__ import annotations

import torch
from torch import Tensor

from vlm.core.features import Features


def together(image: Features, lists: Tensor, numbers: Tensor | None = None) -> Features:
    """Features of lists of images: the tokens of all images of a list, one image after the other.

    `pooled` is the mean over the images of a list. An image without real tokens counts as none.

    Args:
        image: features of U images.
        lists: (E, K) int64, rows of `image`; -1 is no image.
        numbers: (2, M, D), M >= K: of the n-th image of a list a gain and a shift, by which a token
            x becomes x * (1 + gain) + shift, and `pooled` likewise. None changes nothing. With it,
            boxes are those in a row of M images, so that no two images overlap.

    Example:
        >>> images = Features(torch.randn(3, 49, 64))
        >>> together(images, torch.tensor([[2, 0], [1, -1]]))
        Features(2 x 98 x 64, 49-98 real)
    """
    image, there = image.zero_padding(), lists >= 0
    rows = lists.clamp(min=0)
    tokens, pooled, boxes = image.tokens[rows], image.pooled[rows], image.boxes
    mask = image.mask[rows] & there[..., None]
    boxes = None if boxes is None else boxes[rows]
    if numbers is not None:
        gain, shift = numbers[:, : lists.shape[1]]
        tokens = tokens * (1 + gain[:, None]) + shift[:, None]
        pooled = pooled * (1 + gain) + shift
        if boxes is not None:
            place = torch.arange(lists.shape[1], device=boxes.device, dtype=boxes.dtype)
            x, y = boxes[..., 0::2], boxes[..., 1::2]
            x = (x + place[:, None, None]) / numbers.shape[1]
            boxes = torch.stack((x, y), -1).flatten(-2)
    seen = mask.any(-1, keepdim=True)
    pooled = torch.where(seen, pooled, 0).sum(1) / seen.sum(1).clamp(min=1)
    boxes = None if boxes is None else boxes.flatten(1, 2)
    return Features(tokens.flatten(1, 2), mask.flatten(1, 2), pooled, boxes)
