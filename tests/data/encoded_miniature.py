"""Images, an encoder that counts what it encodes, and a folder of cached features."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from vlm.core.features import Features
from vlm.data.features.cache import FeatureCache
from vlm.data.features.store import FeatureStore
from vlm.data.images.sources import ImageOptions, OpenImages
from vlm.image import ConvNet, PixelEncoder

IMAGES = OpenImages(ImageOptions(), None)


class Counting(ConvNet):
    """Counts the images it encodes and is interrupted before exceeding `fails`."""

    def __init__(self) -> None:
        torch.manual_seed(3)
        super().__init__(image_size=32, widths=(5, 7), dropout=0.5)
        self.encoded = 0
        self.fails = 10**6

    def encode(self, images: torch.Tensor, mask: torch.Tensor) -> Any:
        if self.encoded + len(images) > self.fails:
            raise KeyboardInterrupt
        self.encoded += len(images)
        return super().encode(images, mask)


def write_images(folder: Path, count: int) -> list[str]:
    folder.mkdir()
    random = np.random.default_rng(5)
    for number in range(count):
        content = random.integers(0, 256, (64, 16, 3), np.uint8)
        Image.fromarray(content).save(folder / f"{number}.png")
    shutil.copy(folder / "2.png", folder / "copy.png")
    return [str(folder / f"{number}.png") for number in range(count)] + [str(folder / "copy.png")]


def store(
    folder: Path, images: Sequence[str], encoder: PixelEncoder, pictures: OpenImages = IMAGES
) -> FeatureStore:
    return FeatureCache(folder, encoder).store(images, pictures, "train", 4)


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def assert_equal(found: Features, wanted: Features) -> None:
    assert found.boxes is not None
    for one, other in zip(found, wanted, strict=True):
        assert one is not None
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def direct(encoder: PixelEncoder, images: Sequence[str]) -> Features:
    transform = encoder.transform
    with torch.no_grad():
        made = encoder.eval()(transform.stack([transform.open(image) for image in images]))
    assert isinstance(made, Features)
    return made
