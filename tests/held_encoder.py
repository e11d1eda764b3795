"""An image encoder from outside the library that blocks until a test releases it."""

from __future__ import annotations

import time
from pathlib import Path

from torch import Tensor

from vlm.image import ConvNet


class Held(ConvNet):
    """Encodes no image while a file exists.

    Args:
        file: the file that blocks. FILE.met, beside it, appears when an image is waiting.
    """

    def __init__(self, file: str) -> None:
        super().__init__(image_size=32, widths=(5, 7))
        self.file = Path(file)

    def encode(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        while self.file.exists():
            met_by(self.file).touch()
            time.sleep(0.02)
        return super().encode(images, mask)


def met_by(file: Path) -> Path:
    """The file that appears while an image is waiting."""
    return file.with_name(file.name + ".met")
