"""Image encoders: pictures in, grids of tokens out; or regions of a detector."""

from vlm.image.base import ImageEncoder, PictureEncoder, grid_boxes
from vlm.image.conv import ConvNet
from vlm.image.regions import RegionFeatures
from vlm.image.timm import TimmEncoder
from vlm.image.transform import ImageError, ImageTransform, load_image

__all__ = [
    "ConvNet",
    "ImageEncoder",
    "ImageError",
    "ImageTransform",
    "PictureEncoder",
    "RegionFeatures",
    "TimmEncoder",
    "grid_boxes",
    "load_image",
]
