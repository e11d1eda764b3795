"""Convert opened images and arrays of every kind to upright 8-bit RGB."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeGuard

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

WhiteLevel = float | Literal["max"] | None
"""The white value of a grey image with more than 8 bits; see `vlm.image.load.load_image`."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposes that undo an EXIF orientation."""
BYTES_PER_PIXEL = 4
"""Of an RGB image in Pillow, which keeps the colours in words of 32 bits."""
_ORIENTATION, _SUBFILE, _PHOTOMETRIC = 0x0112, 254, 262


def is_tensor(value: Any) -> TypeGuard[Tensor]:
    """Whether a value is a tensor, without importing torch: an exported model runs without it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


class ImageError(ValueError):
    """An image that cannot be read; the message names the file and the reason.

    Attributes:
        kind: "missing", "oversized" or "unreadable".

    Example:
        >>> try:
        ...     vlm.image.load_image(b"no image")
        ... except vlm.image.ImageError as error:
        ...     print(error.kind)
        unreadable
    """

    def __init__(self, message: str, kind: str = "unreadable") -> None:
        super().__init__(message)
        self.kind = kind


class Loaded(NamedTuple):
    """A loaded image, and properties of the original.

    Attributes:
        image: upright RGB.
        mode: Pillow's mode of the original; "" for an array.
        animated: it has several frames or pages, of which this is the first.
        narrow: it has 16 bits but uses only the lowest quarter of their range.
    """

    image: Image.Image
    mode: str = ""
    animated: bool = False
    narrow: bool = False


def to_rgb(image: Image.Image, white_level: WhiteLevel = None) -> Loaded:
    """An opened image as upright RGB.

    Raises:
        ImageError: values out of range, or a thumbnail in place of the image.
    """
    mode, animated, narrow = image.mode, False, False
    with suppress(Exception):  # a damaged second frame
        animated = bool(getattr(image, "is_animated", False))
    tags = getattr(image, "tag_v2", {})  # of TIFF alone
    if tags.get(_SUBFILE) == 1:
        raise ImageError(
            "image: this is a camera's raw file, of which only a thumbnail could be read. Export "
            "it as JPEG or PNG."
        )
    stored = " ".join(str(tile[3]) for tile in getattr(image, "tile", ()))
    image.load()
    image = _upright(image)
    if mode == "F" or mode.startswith("I"):
        twelve = white_level is None and "I;12" in stored
        grey, narrow = _bytes(np.asarray(image), 4095 if twelve else white_level)
        # Pillow inverts images where 0 is white, but not those of more than 8 bits.
        values = np.asarray(image)
        clear = image.info.get("transparency")  # of a PNG, the grey that is not there
        image = Image.fromarray(255 - grey if tags.get(_PHOTOMETRIC) == 0 else grey)
        if isinstance(clear, int):
            image.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    elif ";16" in stored:
        # Pillow has dropped the lower 8 bits.
        narrow = 0 < np.asarray(image)[..., :3].max() < 64
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("LA") if image.mode == "La" else image
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    image = image if image.mode == "RGB" else image.convert("RGB")  # which would copy it
    return Loaded(image, mode, animated, narrow)


def _upright(image: Image.Image) -> Image.Image:
    turn = None
    with suppress(Exception):  # damaged EXIF does not affect the pixels
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    return image if turn is None else image.transpose(turn)


def array_to_rgb(array: np.ndarray | Tensor, white_level: WhiteLevel = None) -> Loaded:
    """An array as `vlm.image.load.load_image` takes it.

    Raises:
        ImageError: another shape, number type or range.
    """
    first = is_tensor(array)
    if is_tensor(array):
        tensor = array.detach().cpu()
        array = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    assert isinstance(array, np.ndarray)
    shape = array.shape
    order = ((0, 2) if first else (2, 0)) if len(shape) == 3 else ()
    channels = [axis for axis in order if shape[axis] in (1, 3, 4)]
    if 0 in shape or not (channels or len(shape) == 2):
        raise ImageError(
            f"image: got an array of shape {shape}; expected (H, W), (H, W, C) or (C, H, W) with C "
            f"= 1, 3 or 4, and one image at a time."
        )
    if channels:
        array = np.moveaxis(array, channels[0], 2)
        array = array[..., 0] if array.shape[2] == 1 else array
    narrow = False
    if array.dtype == np.uint16 or np.issubdtype(array.dtype, np.floating):
        array, narrow = _bytes(array, white_level if array.ndim == 2 else None)
    if array.dtype != np.uint8:
        raise ImageError(
            f"image: got dtype {array.dtype}; expected uint8 or float in [0, 1], or uint16."
        )
    return to_rgb(Image.fromarray(np.ascontiguousarray(array)))._replace(mode="", narrow=narrow)


def _bytes(values: np.ndarray, white_level: WhiteLevel) -> tuple[np.ndarray, bool]:
    """Whole numbers of 16 bits, or floats -> uint8, and whether they use the lowest quarter only.

    Raises:
        ImageError: values below 0, above the range if no white is given, or not finite.
    """
    whole = np.issubdtype(values.dtype, np.integer)
    top, low, high = 65_535 if whole else 1, values.min(), values.max()
    if not (low >= 0 and np.isfinite(high) and (white_level is not None or high <= top)):
        kind = "whole numbers" if whole else "floats"
        expected = "16 bits, [0, 65535]" if whole else "[0, 1], or uint8 in [0, 255]"
        raise ImageError(
            f"image: got {kind} from {low:g} to {high:g}; expected {expected}. Scale it first, or "
            f"set white_level if only the white value differs."
        )
    white = float(high or top) if white_level == "max" else float(white_level or top)
    result = np.empty(values.shape, np.uint8)
    for rows in range(0, len(values), step := max(2**20 // values[0].size, 1)):  # bounds the memory
        scaled = np.minimum(values[rows : rows + step], white) * np.float32(255 / white)
        # Whole numbers are rounded down, allowing for the error of float32.
        result[rows : rows + step] = scaled + np.float32(1e-3) if whole else scaled.round()
    return result, bool(whole and white_level is None and 0 < high < 2**14)
