"""Image encoders: images in, grids of tokens out; or regions of a detector."""

from vlm.image.as_text import picture_text
from vlm.image.base import ImageEncoder, PixelEncoder, grid_boxes
from vlm.image.conv import ConvNet, StridedConvNet
from vlm.image.load import ImageError, load_image
from vlm.image.naflex import NaFlexEncoder
from vlm.image.open_clip import OpenClipImageEncoder
from vlm.image.positions import Positions
from vlm.image.regions import RegionFeatures
from vlm.image.side_by_side import SideBySide
from vlm.image.tiles import Tiles
from vlm.image.timm import TimmEncoder
from vlm.image.torchvision import TorchvisionEncoder
from vlm.image.transform import ImageTransform

__all__ = [
    "ConvNet",
    "ImageEncoder",
    "ImageError",
    "ImageTransform",
    "NaFlexEncoder",
    "OpenClipImageEncoder",
    "PixelEncoder",
    "Positions",
    "RegionFeatures",
    "SideBySide",
    "StridedConvNet",
    "Tiles",
    "TimmEncoder",
    "TorchvisionEncoder",
    "grid_boxes",
    "load_image",
    "picture_text",
]
