"""The one way from an image in any form to upright RGB: strangers' files are read here alone."""

from __future__ import annotations

import importlib
import os
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from vlm.image.container import JPEG_END, jpeg_scans, pixels_only
from vlm.image.kinds import format_of, kind_of
from vlm.image.rgb import ImageError, Loaded, WhiteLevel, array_to_rgb, is_tensor, to_rgb

if TYPE_CHECKING:
    from torch import Tensor

    Source = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | np.ndarray | Tensor
else:  # read without torch too
    Source = Any
"""A path, a file's content, an open binary file, a PIL image, or an array."""

MAX_BYTES = 256_000_000
MAX_PIXELS = 64_000_000
"""Larger images are refused before they are decoded: a few kilobytes can hold gigabytes."""

MAX_SCANNED = 16 * MAX_PIXELS
"""Pixels of a progressive JPEG times its scans, of which there are about ten."""

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "JPEG2000", "TGA", "AVIF")
"""Of files. Pillow knows more: some are rare and little tested, EPS starts another program, and ICO
is decoded as it is opened, however large the image inside."""

EXPECTED = (
    "a path, the content of an image file, an open binary file, a PIL image, or an array (H, W), "
    "(H, W, 3), (H, W, 4) or with the channels first"
)
NARROW = (
    "A 16-bit image uses only the lowest quarter of its range and comes out dark. If white is "
    "another value, such as 4095 with 12 bits, set the image encoder's white_level (grey images), "
    "or scale the images up first."
)


def load_image(
    source: Source, white_level: WhiteLevel = None, enough: tuple[int, int] | None = None
) -> Image.Image:
    """An upright RGB image from a path, a file, its content, a PIL image, or an array.

    EXIF rotation is applied, 16-bit grey is scaled to 8 bits, transparency becomes white, and an
    animation gives its first frame. Colour profiles are not applied. Damaged or oversized metadata
    is ignored; a file with incomplete pixels is refused.

    Args:
        source: a path; bytes; an open binary file, which is read from its start; a PIL image; or
            an array: (H, W), or (H, W, C) or (C, H, W) with C = 1, 3 or 4, uint8 or uint16, or
            float in [0, 1]. If both orders fit, the channels of a numpy array are last and those
            of a tensor first.
        white_level: white value of a grey image of 16 bits or floats; larger values are white too.
            "max" for the image's own maximum; None for 65,535, or 1 for floats.
        enough: sufficient (width, height) in pixels. A JPEG is decoded at a half, a quarter or an
            eighth of its size, whichever is the smallest that is no smaller than this; None decodes
            all pixels, and so does a PIL image.

    Raises:
        ImageError: an image that is missing, empty, corrupt or too large, a file in none of
            `FORMATS`, or an array of another kind.
        TypeError: something else.
    """
    loaded = read_image(source, white_level, enough=enough)
    if loaded.narrow:
        warnings.warn(NARROW, stacklevel=1)  # at one place, so that it is shown once
    return loaded.image


def read_image(
    source: Source,
    white_level: WhiteLevel = None,
    max_pixels: int | None = None,
    plug_ins: bool = True,
    enough: tuple[int, int] | None = None,
) -> Loaded:
    """`load_image` with the properties of the original, and without a warning.

    Args:
        source, white_level, enough: as for `load_image`, which raises the same errors.
        max_pixels: most pixels of the image; None for `MAX_PIXELS`.
        plug_ins: whether to read formats that other packages have added to Pillow's.
    """
    is_path = isinstance(source, (str, os.PathLike))
    is_content = isinstance(source, (bytes, bytearray, memoryview))
    name = str(source)[:200] if is_path else "image"
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    read = partial(_checked, limit=limit, white_level=white_level, enough=enough)
    with _one_error(name):
        if isinstance(source, Image.Image):
            loaded = read(source, enough=None)
            return loaded._replace(image=loaded.image.copy())  # the caller's own stays as it is
        if isinstance(source, np.ndarray) or is_tensor(source):
            return array_to_rgb(source, white_level)
        if is_path or is_content or hasattr(source, "read"):
            content = bytes(source) if is_content else _content(source)  # type: ignore[arg-type]  # bytes by now
            return _from_content(content, read, plug_ins)
    raise TypeError(f"image: got {type(source).__name__}; expected {EXPECTED}.")


Read = Callable[[Image.Image], Loaded]


def _checked(
    image: Image.Image, limit: int, white_level: WhiteLevel, enough: tuple[int, int] | None
) -> Loaded:
    """Convert an opened image, or refuse it by its header if it is too large."""
    width, height = image.size
    if not width * height:
        raise ImageError(
            f"image: the image has {width} x {height} pixels; expected at least 1 x 1."
        )
    if width * height > limit:
        raise ImageError(
            f"image: the image has {width:,} x {height:,} pixels; at most {limit:,} are read. "
            f"Scale it down first.",
            "oversized",
        )
    if enough is not None:
        image.draft(None, enough)  # does nothing to other formats
    return to_rgb(image, white_level)


def _content(source: Any) -> bytes:
    """The bytes of a path or an open file, at most one more than `MAX_BYTES`."""
    if not isinstance(source, (str, os.PathLike)):
        if getattr(source, "seekable", bool)():
            source.seek(0)
        content = source.read(MAX_BYTES + 1)
        if not isinstance(content, bytes):
            raise ImageError(
                f"image: got a file that reads {type(content).__name__}; expected one opened with "
                f"mode 'rb'."
            )
        return content
    found = os.stat(source)
    if not stat.S_ISREG(found.st_mode):
        kind = "folder" if stat.S_ISDIR(found.st_mode) else "pipe, socket or device"
        raise ImageError(f"image: this is a {kind}; expected an image.")
    _check_bytes(found.st_size)
    # Without waiting, in case the path has become a pipe by now.
    with open(source, "rb", opener=lambda path, flags: os.open(path, flags | _AT_ONCE)) as file:
        return file.read(MAX_BYTES + 1)


_AT_ONCE = getattr(os, "O_NONBLOCK", 0)  # Windows has none


def _check_bytes(count: int) -> None:
    if not count:
        raise ImageError("image: not a readable image (the file is empty).")
    if count > MAX_BYTES:
        raise ImageError(
            f"image: the file has {count:,} bytes; at most {MAX_BYTES:,} are read. Scale the "
            f"image down first.",
            "oversized",
        )


def _from_content(content: bytes, read: Read, plug_ins: bool) -> Loaded:
    _check_bytes(len(content))
    if content.startswith(b"CR\2\0", 8):  # a camera's raw file: as a TIFF it is a thumbnail
        raise _unidentified(content)
    try:
        return _opened(pixels_only(content) or content, read)
    except UnidentifiedImageError as error:
        kind = kind_of(content)
        if plug_ins and (formats := _added_formats("" if kind is None else kind.plug_in)):
            with suppress(UnidentifiedImageError):
                return _opened(content, read, formats)
        raise _unidentified(content) from error


def _unidentified(content: bytes) -> Exception:
    if (kind := kind_of(content)) is not None:
        return ImageError(f"image: not a readable image: this is {kind.name}. {kind.remedy}")
    if (damaged := format_of(content, FORMATS)) is not None:
        return ImageError(f"image: not a readable image (a damaged {damaged} file).")
    return UnidentifiedImageError("no image format that vlm knows; save it as JPEG or PNG")


def _opened(content: bytes, read: Read, formats: tuple[str, ...] = FORMATS) -> Loaded:
    try:
        with Image.open(BytesIO(content), formats=formats) as image:
            _check_scans(image, content)
            return read(image)
    except OSError as error:
        if "truncated" not in str(error) or not content.startswith(b"\xff\xd8"):
            raise
        if content.endswith(JPEG_END):
            raise
        # If only the end marker is missing, the decoder skips extra bytes before it; otherwise it
        # takes them for pixels.
        start = content.removesuffix(JPEG_END[:1])
        whole, other = (_opened(start + x + JPEG_END, read) for x in (b"", b"\x5a\xc3" * 99))
        if whole.image.tobytes() != other.image.tobytes():
            raise
        return whole


def _check_scans(image: Image.Image, content: bytes) -> None:
    """Refuse a progressive JPEG, also in a TIFF, whose many small scans would take minutes."""
    pixels = image.width * image.height
    if image.format == "TIFF" and "jpeg" in str(image.info.get("compression")):
        scans, tags = content.count(b"\xff\xda"), image.tag_v2  # type: ignore[attr-defined]  # of a TIFF
        # Each strip or tile is a JPEG of its own.
        rows = min(tags.get(_ROWS) or image.height, image.height)
        pixels = tags.get(_TILE_WIDTH, image.width) * tags.get(_TILE_LENGTH, rows)
    elif image.format == "JPEG":
        scans = jpeg_scans(content) if content.count(b"\xff\xda") > 1 else 1
    else:
        return
    if scans * pixels > MAX_SCANNED:
        raise ImageError(
            f"image: its {image.width:,} x {image.height:,} pixels are stored in {scans:,} "
            f"scans; at most {MAX_SCANNED:,} pixels are read over all scans. Save it again.",
            "oversized",
        )


_ROWS, _TILE_WIDTH, _TILE_LENGTH = 278, 322, 323


def _added_formats(module: str) -> tuple[str, ...]:
    """Formats that other packages have added to Pillow, such as `module` if it is installed."""
    if module and find_spec(module):
        register = getattr(importlib.import_module(module), "register_heif_opener", None)
        if register is not None:  # the import is not enough
            register()
    known = Image.OPEN.items()
    return tuple(name for name, (make, _) in known if not make.__module__.startswith("PIL."))


_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)


@contextmanager
def _one_error(name: str) -> Iterator[None]:
    """Whatever is raised inside becomes an `ImageError` about `name` instead of "image"."""
    try:
        yield
    except ImageError as error:
        if not str(error).startswith("image: "):  # of a file that reads from elsewhere, and says so
            raise
        raise ImageError(f"{name}: {str(error)[7:]}", error.kind) from error.__cause__
    except FileNotFoundError as error:
        raise ImageError(f"{name}: there is no such file.", "missing") from error
    except _BOMBS as error:
        raise ImageError(
            f"{name}: the image has more pixels than are read. Scale it down first.", "oversized"
        ) from error
    except Exception as error:  # a corrupt file raises anything: SyntaxError, struct.error, ...
        # Pillow names the object in memory that bytes are read from.
        reason = str(error)[:200].partition(" <_io")[0] or type(error).__name__
        raise ImageError(f"{name}: not a readable image ({reason}).") from error
