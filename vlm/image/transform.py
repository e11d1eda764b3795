"""From an image of any kind and size to the encoder's input."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from vlm.image.load import Source, WhiteLevel, load_image

GREY = 128
LARGEST = 16_384
"""Longest side of an input, in pixels."""

Fit = Literal["squash", "crop", "pad"]
"""How an image of any aspect comes to the input's size; see `ImageTransform`."""

Interpolation = Literal["bilinear", "bicubic", "lanczos", "nearest"]
"""Names of Pillow's filters, in lower case."""


@dataclass(frozen=True)
class ImageTransform:
    """Resize to one size, so that an image looks the same whatever its batch.

    Args:
        size: (height, width) of the result in pixels.
        interpolation: filter for the resizing.
        fit: "squash" resizes both sides; "crop" keeps the aspect ratio and takes the middle; "pad"
            keeps the aspect ratio and the whole image, centred in empty borders, and a fourth
            channel marks the image.
        crop_share: share of the resized shorter side that "crop" keeps, in (0, 1].
        white_level: white value of grey images of 16 bits or floats, above 0, such as 4095 for 12
            bits; "max" for each image's own maximum; None for 65,535, or 1 for floats.

    Raises:
        ValueError: an invalid size, filter, fit, share or level.

    Example:
        >>> from PIL import Image
        >>> transform = vlm.image.ImageTransform((224, 224), interpolation="bicubic")
        >>> transform.stack([transform.open(Image.new("RGB", (640, 480)))]).shape
        torch.Size([1, 3, 224, 224])
    """

    size: tuple[int, int]
    interpolation: Interpolation = "bilinear"
    fit: Fit = "squash"
    crop_share: float = 1.0
    white_level: WhiteLevel = None

    def __post_init__(self) -> None:
        if len(self.size) != 2 or any(
            not isinstance(side, int) or not 1 <= side <= LARGEST for side in self.size
        ):
            raise ValueError(
                f"size: got {self.size}; expected (height, width), 1 to {LARGEST:,} pixels each."
            )
        if self.interpolation not in (known := get_args(Interpolation)):
            raise ValueError(
                f"interpolation: got {self.interpolation!r}; expected one of {', '.join(known)}."
            )
        if self.fit not in ("squash", "crop", "pad"):
            raise ValueError(f"fit: got {self.fit!r}; expected 'squash', 'crop' or 'pad'.")
        if not 0 < self.crop_share <= 1:
            raise ValueError(f"crop_share: got {self.crop_share}; expected a share in (0, 1].")

        level = self.white_level
        if level not in (None, "max") and not (isinstance(level, (int, float)) and 0 < level < 1e9):
            raise ValueError(
                f"white_level: got {level!r}; expected a value above 0, such as 4095, or 'max'."
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the result."""
        return (4 if self.fit == "pad" else 3, *self.size)

    @property
    def enough(self) -> tuple[int, int]:
        """The largest (width, height) of a resized image, in any orientation."""
        side = math.ceil(max(self.size) / self.crop_share)
        return side, side

    def __call__(self, image: Image.Image) -> Tensor:
        """An RGB image -> `shape` uint8: three colours and, with "pad", 255 inside the image."""
        height, width = self.size
        if self.fit == "pad":
            scale = min(width / image.width, height / image.height)
            w, h = max(round(image.width * scale), 1), max(round(image.height * scale), 1)
            top, left = (height - h) // 2, (width - w) // 2
            padded = torch.zeros(self.shape, dtype=torch.uint8)
            inside = padded[:, top : top + h, left : left + w]
            inside[:3] = self._resized(image, (h, w))
            inside[3] = 255
            return padded
        if self.fit == "crop":
            target = (round(width / self.crop_share), round(height / self.crop_share))
            image = ImageOps.fit(image, target, self._filter)
            left, top = (target[0] - width) // 2, (target[1] - height) // 2
            image = image.crop((left, top, left + width, top + height))
            return _own(_pixels(image)[:3])
        return _own(self._resized(image, self.size))

    @property
    def _filter(self) -> Image.Resampling:
        return Image.Resampling[self.interpolation.upper()]

    def _resized(self, image: Image.Image, size: tuple[int, int]) -> Tensor:
        """The whole image at (height, width): (3, height, width) uint8."""
        height, width = size
        if image.size == (width, height):
            return _pixels(image)[:3]
        if self.interpolation not in ("bilinear", "bicubic"):
            return _pixels(image.resize((width, height), self._filter))[:3]
        # Pillow's own result, at more than twice its speed (benchmarks/images.py).
        batch = _pixels(image)[None]
        return F.interpolate(batch, size, mode=self.interpolation, antialias=True)[0, :3]

    def open(self, source: Source) -> Tensor:
        """The transformed image, from any form that `load_image` takes."""
        return self(load_image(source, self.white_level))

    def stack(self, items: Sequence[Tensor]) -> Tensor:
        """Stack transformed images to a batch `(U, *shape)`."""
        return torch.stack(list(items)) if items else self.blank(0)

    def blank(self, count: int) -> Tensor:
        """A batch of uniformly grey images."""
        images = torch.full((count, *self.shape), GREY, dtype=torch.uint8)
        images[:, 3:] = 255
        return images

    def box(self, image_size: tuple[int, int]) -> tuple[float, float, float, float]:
        """The box of the model's input in the image: x0, y0, x1, y1 in the image's pixels.

        With "pad" the input is larger than the image, and so is the box.

        Args:
            image_size: (width, height) of the image.
        """
        width, height = image_size
        if self.fit == "squash":
            return 0.0, 0.0, float(width), float(height)
        ratios = width / self.size[1], height / self.size[0]
        scale = max(ratios) if self.fit == "pad" else min(ratios) * self.crop_share
        w, h = self.size[1] * scale, self.size[0] * scale
        return (width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2


def _pixels(image: Image.Image) -> Tensor:
    """An RGB image as (3 or 4, H, W) uint8, a view of (H, W, 3 or 4): Pillow keeps four bytes for
    each pixel, of which the last means nothing. The memory may be the image's own."""
    image.load()
    image = image.copy() if image.readonly else image  # memory of others has no export
    # Whoever reads tables has Arrow; asking starts without. Another thread may be importing it.
    array = getattr(sys.modules.get("pyarrow"), "array", None)
    try:
        if array is not None:
            pixels = torch.from_dlpack(array(image).flatten())
            return pixels.view(image.height, image.width, 4).permute(2, 0, 1)
    except ValueError:  # a large image lies in several blocks
        pass
    # `array` and not `asarray`: torch expects memory that it may write to.
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _own(pixels: Tensor) -> Tensor:
    """A contiguous copy."""
    return pixels.clone(memory_format=torch.contiguous_format)
