"""From a picture of any kind and size to the encoder's input."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

MAX_PIXELS = 64_000_000
"""Larger pictures are refused before they are decoded: a few kilobytes can hold gigabytes."""

GREY = 128

Fit = Literal["squash", "crop", "pad"]
"""How a photo of any aspect comes to the input's size; see `ImageTransform`."""

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}


class ImageError(ValueError):
    """A picture that cannot be read; the message names the file and the reason.

    Attributes:
        kind: "missing", "oversized" or "unreadable".
    """

    def __init__(self, message: str, kind: str = "unreadable") -> None:
        super().__init__(message)
        self.kind = kind


def load_image(source: str | Path | bytes | Image.Image | np.ndarray | Tensor) -> Image.Image:
    """An upright RGB picture from a path, a file's content, a PIL image, or an array.

    EXIF rotation is applied, 16-bit grey is scaled to 8 bits, transparency is laid on white, and
    an animation gives its first frame.

    Args:
        source: a path, bytes, a PIL image, or an array: (H, W), (H, W, 3) or (3, H, W), uint8 in
            [0, 255] or float in [0, 1].

    Raises:
        ImageError: missing, empty, corrupt or too large, or an array of another kind.
    """
    if isinstance(source, (np.ndarray, Tensor)):
        if isinstance(source, Tensor):
            source = source.detach().cpu()
            source = source.float() if source.is_floating_point() else source
        return _from_array(np.asarray(source))
    if isinstance(source, Image.Image):
        return _to_rgb(source)
    content = source if isinstance(source, bytes) else None
    path = Path("image") if isinstance(source, bytes) else Path(source)
    try:
        with Image.open(path if content is None else BytesIO(content)) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ImageError(
                    f"{path}: the picture has {width} x {height} pixels; at most "
                    f"{MAX_PIXELS:,} are read. Scale it down first.",
                    "oversized",
                )
            return _to_rgb(image)
    except FileNotFoundError as error:
        raise ImageError(f"{path}: there is no such file.", "missing") from error
    except IsADirectoryError as error:
        raise ImageError(f"{path}: this is a folder; wanted a picture.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{path}: {error}", "oversized") from error
    except Exception as error:  # a corrupt file raises anything: SyntaxError, struct.error, ...
        if isinstance(error, ImageError):
            raise
        if content is not None:
            empty = not content
        else:  # `os.path`, which says False to a path that cannot be asked
            empty = os.path.exists(path) and os.path.getsize(path) == 0
        # Pillow names the object in memory that bytes are read from.
        reason = "the file is empty" if empty else str(error)[:200].partition(" <_io")[0]
        raise ImageError(f"{str(path)[:200]}: not a readable picture ({reason}).") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):
        # `convert` would saturate: anything above 255 of 65,535 would come out white.
        image = Image.fromarray((np.asarray(image).astype(np.float32) / 257).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[0] == 3 and array.shape[2] != 3:
        array = array.transpose(1, 2, 0)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3) or 0 in array.shape:
        raise ImageError(
            f"image: got an array of shape {array.shape}; wanted (H, W), (H, W, 3) or (3, H, W)."
        )
    if np.issubdtype(array.dtype, np.floating):
        if not (array.min() >= 0 and array.max() <= 1):
            raise ImageError(
                f"image: got floats from {array.min():g} to {array.max():g}; wanted [0, 1], or "
                f"uint8 in [0, 255]."
            )
        array = (array * 255).round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise ImageError(f"image: got dtype {array.dtype}; wanted uint8 or float.")
    return Image.fromarray(array).convert("RGB")


@dataclass(frozen=True)
class ImageTransform:
    """Resize to one size, so that a picture looks the same whatever its batch.

    Args:
        size: (height, width) of the result in pixels.
        interpolation: filter of the resizing.
        fit: "squash" resizes both sides; "crop" keeps the aspect and takes the middle; "pad" keeps
            the aspect and the whole photo, in the middle of empty borders, and a fourth channel
            says where the photo is.
        crop_share: with "crop", the share of the resized shorter side that is kept, in (0, 1].

    Raises:
        ValueError: a size, filter, fit or share that does not exist.
    """

    size: tuple[int, int]
    interpolation: Literal["bilinear", "bicubic", "lanczos", "nearest"] = "bilinear"
    fit: Fit = "squash"
    crop_share: float = 1.0

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"size: got {self.size}; wanted (height, width) in pixels.")
        if self.interpolation not in _FILTERS:
            raise ValueError(
                f"interpolation: got {self.interpolation!r}; wanted one of {', '.join(_FILTERS)}."
            )
        if self.fit not in ("squash", "crop", "pad"):
            raise ValueError(f"fit: got {self.fit!r}; wanted 'squash', 'crop' or 'pad'.")
        if not 0 < self.crop_share <= 1:
            raise ValueError(f"crop_share: got {self.crop_share}; wanted a share in (0, 1].")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the result."""
        return (4 if self.fit == "pad" else 3, *self.size)

    def __call__(self, image: Image.Image) -> Tensor:
        """An RGB picture -> `shape` uint8: three colours and, with "pad", 255 inside the photo."""
        height, width = self.size
        method = _FILTERS[self.interpolation]
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
            image = ImageOps.fit(image, target, method)
            left, top = (target[0] - width) // 2, (target[1] - height) // 2
            image = image.crop((left, top, left + width, top + height))
            return _pixels(image).contiguous()
        return self._resized(image, self.size).contiguous()

    def _resized(self, image: Image.Image, size: tuple[int, int]) -> Tensor:
        """The whole picture at (height, width): (3, height, width) uint8."""
        height, width = size
        if image.size == (width, height):
            return _pixels(image)
        if self.interpolation not in ("bilinear", "bicubic"):
            return _pixels(image.resize((width, height), _FILTERS[self.interpolation]))
        # Pillow's own result, at more than twice its speed (benchmarks/encoders.py --decode).
        batch = _pixels(image)[None]
        return F.interpolate(batch, size, mode=self.interpolation, antialias=True)[0]

    def open(self, source: str | Path | bytes | Image.Image | np.ndarray | Tensor) -> Tensor:
        """The same of a picture in any form that `load_image` takes."""
        return self(load_image(source))

    def stack(self, items: Sequence[Tensor]) -> Tensor:
        """One batch: (U, *shape)."""
        return torch.stack(list(items)) if items else self.blank(0)

    def blank(self, count: int) -> Tensor:
        """Pictures that are the same grey all over."""
        pictures = torch.full((count, *self.shape), GREY, dtype=torch.uint8)
        pictures[:, 3:] = 255
        return pictures

    def box(self, image_size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Where the model's input lies in the photo: x0, y0, x1, y1 in the photo's pixels.

        With "pad" the input is larger than the photo, and so is the box.

        Args:
            image_size: (width, height) of the photo.
        """
        width, height = image_size
        if self.fit == "squash":
            return 0.0, 0.0, float(width), float(height)
        ratios = width / self.size[1], height / self.size[0]
        scale = max(ratios) if self.fit == "pad" else min(ratios) * self.crop_share
        w, h = self.size[1] * scale, self.size[0] * scale
        return (width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2


def _pixels(image: Image.Image) -> Tensor:
    """An RGB picture as (3, H, W) uint8, a view of (H, W, 3)."""
    # `array` and not `asarray`: torch wants memory it may write to.
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
