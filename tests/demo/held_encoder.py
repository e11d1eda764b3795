"""An image encoder from outside the library that takes as long as a test wants."""

from __future__ import annotations

import time
from pathlib import Path

from torch import Tensor

from vlm.image import ConvNet


class Held(ConvNet):
    """Looks at no image while a file is there.

    Args:
        file: that file. Beside it FILE.met tells that an image is waiting.
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
    """Where it tells that it waits for the file to go."""
    return file.with_name(file.name + ".met")
