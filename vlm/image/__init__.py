"""Image encoders: pictures in, grids of tokens out."""

from vlm.image.base import ImageEncoder, grid_boxes
from vlm.image.conv import ConvNet
from vlm.image.timm import TimmEncoder
from vlm.image.transform import ImageError, ImageTransform, load_image

__all__ = [
    "ConvNet",
    "ImageEncoder",
    "ImageError",
    "ImageTransform",
    "TimmEncoder",
    "grid_boxes",
    "load_image",
]
