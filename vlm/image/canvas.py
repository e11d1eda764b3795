"""Inputs of any aspect: each image in a corner of a canvas, the rest of which is empty."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from vlm.image.transform import GREY, ImageTransform


@dataclass(frozen=True)
class CanvasTransform(ImageTransform):
    """Resizes each image to a size of its own; the fourth channel says where the image is.

    The canvas is as large as the largest image, so that batches have one shape; an encoder takes
    from it what the image fills, and its boxes are those of the image without the rest.
    """

    @abstractmethod
    def fitted(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) of an image of this (width, height) in the canvas."""

    def __call__(self, image: Image.Image) -> Tensor:
        width, height = self.fitted(image.size)
        canvas = torch.zeros(self.shape, dtype=torch.uint8)
        canvas[:3, :height, :width] = self._resized(image, (height, width))
        canvas[3, :height, :width] = 255
        return canvas

    def blank(self, count: int) -> Tensor:
        """Square images that are the same grey all over."""
        grey = self(Image.new("RGB", (64, 64), (GREY, GREY, GREY)))
        return grey.repeat(count, 1, 1, 1)

    def box(self, image_size: tuple[int, int]) -> tuple[float, float, float, float]:
        width, height = self.fitted(image_size)
        right, lower = image_size[0] * self.size[1] / width, image_size[1] * self.size[0] / height
        return 0.0, 0.0, right, lower
