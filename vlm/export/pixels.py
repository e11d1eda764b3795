"""`vlm.image.ImageTransform` by Pillow and numpy alone: the same pixels without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from vlm.image.load import Source, load_image
from vlm.image.rgb import WhiteLevel


@dataclass(frozen=True)
class PixelTransform:
    """Attributes: those of `vlm.image.ImageTransform`, as `transform.json` has them."""

    size: tuple[int, int]
    interpolation: str
    fit: str
    crop_share: float
    white_level: WhiteLevel

    def open(self, source: Source) -> np.ndarray:
        """An image in any form that `load_image` takes -> (3 or 4, height, width) uint8."""
        image, (height, width) = load_image(source, self.white_level), self.size
        if self.fit == "pad":
            scale = min(width / image.width, height / image.height)
            w, h = max(round(image.width * scale), 1), max(round(image.height * scale), 1)
            top, left = (height - h) // 2, (width - w) // 2
            padded = np.zeros((4, height, width), np.uint8)
            padded[:3, top : top + h, left : left + w] = self._pixels(image, (w, h))
            padded[3, top : top + h, left : left + w] = 255
            return padded
        if self.fit == "crop":
            target = (round(width / self.crop_share), round(height / self.crop_share))
            image = ImageOps.fit(image, target, self._filter)
            left, top = (target[0] - width) // 2, (target[1] - height) // 2
            image = image.crop((left, top, left + width, top + height))
        return self._pixels(image, (width, height))

    def stack(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """One batch."""
        return np.stack(images)

    @property
    def _filter(self) -> Image.Resampling:
        return Image.Resampling[self.interpolation.upper()]

    def _pixels(self, image: Image.Image, size: tuple[int, int]) -> np.ndarray:
        """(3, height, width) of an image resized to (width, height)."""
        if image.size != size and self.interpolation in ("bilinear", "bicubic"):
            pixels = _resized(np.asarray(image), (size[1], size[0]), self.interpolation)
        else:
            pixels = np.asarray(image if image.size == size else image.resize(size, self._filter))
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _resized(pixels: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """(H, W, 3) uint8 -> (height, width, 3), to the bit as torch's antialiased interpolation.

    Pillow's own is faster and rounds a value in a hundred by one level to the other side: its
    weights have 22 bits, and torch's as many as 16-bit integers hold.
    """
    for axis, out in ((1, size[1]), (0, size[0])):
        pixels = np.moveaxis(pixels, axis, 0)
        if out != len(pixels):
            filters, bits = _filters(len(pixels), out, interpolation)
            flat = pixels.reshape(len(pixels), -1)
            made = np.empty((out, flat.shape[1]), np.uint8)
            for row, (first, weights) in enumerate(filters):
                # Whole numbers, which float64 adds without error, and fast.
                total = weights @ flat[first : first + len(weights)].astype(np.float64)
                made[row] = np.clip(np.floor(total / 2**bits + 0.5), 0, 255)
            pixels = made.reshape(out, *pixels.shape[1:])
        pixels = np.moveaxis(pixels, 0, axis)
    return pixels


def _filters(size: int, out: int, interpolation: str) -> tuple[list[tuple[int, np.ndarray]], int]:
    """For each of `out` values the first of `size` inputs and their weights, which are whole
    numbers in units of 2 ** -bits; and the bits."""
    scale = size / out
    wide, radius = max(scale, 1.0), 1 if interpolation == "bilinear" else 2
    exact = []
    for row in range(out):
        centre = scale * (row + 0.5)
        first = max(int(centre - radius * wide + 0.5), 0)
        last = min(int(centre + radius * wide + 0.5), size)
        x = np.abs((np.arange(first, last) - centre + 0.5) * (1.0 / wide))
        if interpolation == "bilinear":
            weights = np.clip(1 - x, 0, None)
        else:  # Keys' cubic with a = -0.5
            near = (1.5 * x - 2.5) * x * x + 1
            far = ((-0.5 * x + 2.5) * x - 4) * x + 2
            weights = np.where(x < 1, near, np.where(x < 2, far, 0))
        exact.append((first, weights / weights.sum()))
    most, bits = max(weights.max() for _, weights in exact), 0
    while bits < 22 and int(0.5 + most * 2 ** (bits + 1)) < 2**15:
        bits += 1
    return [
        (first, np.trunc(weights * 2**bits + np.copysign(0.5, weights))) for first, weights in exact
    ], bits
