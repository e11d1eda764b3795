"""The one way from a picture in any form to upright RGB: strangers' files are read here alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

Source = str | Path | bytes | Image.Image | np.ndarray | Tensor
"""A path, a file's content, a PIL image, or an array."""

MAX_BYTES = 256_000_000
MAX_PIXELS = 64_000_000
"""Larger pictures are refused before they are decoded: a few kilobytes can hold gigabytes."""

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "JPEG2000", "TGA", "AVIF")
"""Of files. Pillow knows more: some are rare and little tested, EPS starts another program, and ICO
is decoded as it is opened, however large the picture inside."""


class ImageError(ValueError):
    """A picture that cannot be read; the message names the file and the reason.

    Attributes:
        kind: "missing", "oversized" or "unreadable".
    """

    def __init__(self, message: str, kind: str = "unreadable") -> None:
        super().__init__(message)
        self.kind = kind


def load_image(source: Source) -> Image.Image:
    """An upright RGB picture from a path, a file's content, a PIL image, or an array.

    EXIF rotation is applied, 16-bit grey is scaled to 8 bits, transparency is laid on white, and
    an animation gives its first frame.

    Args:
        source: a path, bytes, a PIL image, or an array: (H, W), (H, W, 3) or (3, H, W), uint8 in
            [0, 255] or float in [0, 1].

    Raises:
        ImageError: missing, empty, corrupt or too large, a file of none of `FORMATS`, or an array
            of another kind.
    """
    if isinstance(source, (np.ndarray, Tensor)):
        if isinstance(source, Tensor):
            source = source.detach().cpu()
            source = source.float() if source.is_floating_point() else source
        return _from_array(np.asarray(source))
    if isinstance(source, Image.Image):
        with _one_error("image"):
            _check_size(source, "image", MAX_PIXELS)
            return to_rgb(source)
    with open_image(source) as image:
        return to_rgb(image)


@contextmanager
def open_image(source: str | Path | bytes, max_pixels: int | None = None) -> Iterator[Image.Image]:
    """A picture file of which only the header is read yet. Errors inside are `ImageError` too.

    Args:
        source: a path, or a file's content.
        max_pixels: of the picture; None for `MAX_PIXELS`.

    Raises:
        ImageError: as `load_image` says.
    """
    name = "image" if isinstance(source, bytes) else str(source)[:200]
    with _one_error(name):
        # `os.path`: what `Path` cannot ask (a NUL, a name that is too long) is a ValueError there.
        size = len(source) if isinstance(source, bytes) else os.path.getsize(source)
        if not isinstance(source, bytes) and os.path.isdir(source):
            raise ImageError(f"{name}: this is a folder; wanted a picture.")
        if not size:
            raise ImageError(f"{name}: not a readable picture (the file is empty).")
        if size > MAX_BYTES:
            raise ImageError(
                f"{name}: the file has {size:,} bytes; at most {MAX_BYTES:,} are read. Scale the "
                f"picture down first.",
                "oversized",
            )
        file = BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file, formats=FORMATS) as image:
            _check_size(image, name, MAX_PIXELS if max_pixels is None else max_pixels)
            yield image


@contextmanager
def _one_error(name: str) -> Iterator[None]:
    """Whatever is raised inside becomes an `ImageError` about `name`."""
    try:
        yield
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{name}: there is no such file.", "missing") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            f"{name}: the picture has more pixels than are read. Scale it down first.", "oversized"
        ) from error
    except Exception as error:  # a corrupt file raises anything: SyntaxError, struct.error, ...
        # Pillow names the object in memory that bytes are read from.
        reason = str(error)[:200].partition(" <_io")[0] or type(error).__name__
        raise ImageError(f"{name}: not a readable picture ({reason}).") from error


def _check_size(image: Image.Image, name: str, max_pixels: int) -> None:
    width, height = image.size
    if not width * height:
        raise ImageError(f"{name}: the picture has {width} x {height} pixels; wanted some.")
    if width * height > max_pixels:
        raise ImageError(
            f"{name}: the picture has {width:,} x {height:,} pixels; at most {max_pixels:,} are "
            f"read. Scale it down first.",
            "oversized",
        )


def to_rgb(image: Image.Image) -> Image.Image:
    """An opened picture, upright and RGB."""
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        return _from_array(np.asarray(image))
    if image.mode in ("I;16", "I;16B", "I;16L", "I;16N", "I"):
        # `convert` would saturate: anything above 255 of 65,535 would come out white.
        grey = np.asarray(image).astype(np.float64)
        if not 0 <= grey.min() <= grey.max() <= 65_535:
            raise ImageError(
                f"image: got whole numbers from {grey.min():g} to {grey.max():g}; wanted 16 bits, "
                f"[0, 65535]."
            )
        return Image.fromarray((grey / 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("LA") if image.mode == "La" else image
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
