"""What a visitor sent, as a picture: within limits, or a sentence that says what is wrong."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from vlm.image.kinds import format_of, kind_of
from vlm.image.load import FORMATS, ImageError, read_image
from vlm.image.rgb import WhiteLevel

MAX_BYTES = 10_000_000
MAX_PIXELS = 40_000_000
"""More is refused before it is decoded: a few kilobytes can hold gigabytes."""
SHOWN = 768
"""Longer side of the copy that is kept to draw on, in pixels."""


@dataclass(frozen=True)
class Photo:
    """A picture that was read.

    Attributes:
        digest: of the file's content; one picture has one.
        image: upright RGB, as large as it was sent.
        notes: what a visitor should know of how it was read, one sentence each.
    """

    digest: str
    image: Image.Image
    notes: tuple[str, ...]


def digest_of(content: bytes) -> str:
    """The name of a file's content."""
    return hashlib.sha256(content).hexdigest()


def read_photo(content: bytes, white_level: WhiteLevel = None) -> Photo:
    """Read a picture file of any kind that Pillow knows.

    Args:
        content: of the file.
        white_level: as for `vlm.image.load.load_image`.

    Raises:
        ImageError: empty, no picture, damaged, or too large in bytes or pixels.
    """
    if not content:
        raise ImageError("The file is empty (0 bytes); choose another picture.")
    if len(content) > MAX_BYTES:
        raise ImageError(
            f"The file has {len(content) / 1e6:,.1f} MB; at most {MAX_BYTES // 10**6} MB are read. "
            f"Scale the picture down first.",
            "oversized",
        )
    try:
        read = read_image(content, white_level, MAX_PIXELS, plug_ins=False)
    except ImageError as error:
        raise ImageError(_for_visitors(error, content), error.kind) from error
    notes = []
    if read.animated:
        notes.append(
            "It is animated or has several pages; the first of its pictures is asked about."
        )
    if read.mode == "CMYK":
        notes.append("The picture has printing colours (CMYK); they were converted.")
    if read.narrow:
        notes.append("The picture has 16 bits, but uses only the lowest quarter and is dark.")
    return Photo(digest_of(content), read.image, tuple(notes))


def _for_visitors(error: ImageError, content: bytes) -> str:
    if error.kind == "oversized":
        return f"The picture is too large: {str(error).removeprefix('image: ')}"
    kind = kind_of(content)
    identified = not isinstance(error.__cause__, UnidentifiedImageError)
    if kind is None and (identified or format_of(content, FORMATS)):
        return "The picture is damaged and cannot be read; choose another."
    name = "not a picture" if kind is None else kind.name
    return f"This file is {name}, whatever its name says; choose a JPEG, PNG, WebP or GIF picture."


def small_copy(image: Image.Image) -> Image.Image:
    """The picture as it is shown: its longer side has `SHOWN` pixels at most."""
    copy = image.copy()
    copy.thumbnail((SHOWN, SHOWN))
    return copy
