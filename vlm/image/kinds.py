"""The kind of a file, by its first bytes."""

from __future__ import annotations

from typing import NamedTuple

from PIL import Image


class Kind(NamedTuple):
    name: str
    remedy: str
    """A sentence."""
    plug_in: str = ""
    """A module that adds the format to Pillow."""


_CONVERT = "Convert it to JPEG or PNG."
_HEIC = Kind(
    "a HEIC image",
    "Convert it to JPEG or PNG, or install pillow-heif to read it.",
    "pillow_heif",
)
_JPEG_XL = Kind(
    "a JPEG XL image",
    "Convert it to JPEG or PNG, or install pillow-jxl-plugin to read it.",
    "pillow_jxl",
)
_RAW = Kind("a camera's raw image", "Export it as JPEG or PNG.")
_VIDEO = Kind("a video", "Save one of its frames as JPEG or PNG.")
_POSTSCRIPT = Kind("a PostScript document", _CONVERT)
_ICON = Kind("an icon file", _CONVERT)
_PAGE = Kind("a web page", "The download went wrong: get the image itself.")
_SVG = Kind("an SVG drawing", "Render it as PNG.")
_ARCHIVE = Kind("an archive", "Unpack it and use the images in it.")
_MEDICAL = "Convert it to PNG, with the window that shows what matters."
_STARTS: tuple[tuple[int, bytes, Kind], ...] = (
    (0, b"\xff\x0a", _JPEG_XL),
    (0, b"\0\0\0\x0cJXL ", _JPEG_XL),
    (8, b"CR\2\0", _RAW),
    (4, b"ftypcrx ", _RAW),
    (0, b"IIRO", _RAW),
    (0, b"IIU\0", _RAW),
    (0, b"FUJIFILMCCD-RAW", _RAW),
    *((4, b"ftyp" + brand, _HEIC) for brand in (b"hei", b"hev", b"mif1", b"msf1")),
    (4, b"ftypavi", Kind("an AVIF image that is damaged, or not read by this Pillow", _CONVERT)),
    (4, b"ftyp", _VIDEO),
    (0, b"\x1aE\xdf\xa3", _VIDEO),
    (8, b"AVI ", _VIDEO),
    (0, b"\0\0\1\xba", _VIDEO),
    (0, b"%PDF", Kind("a PDF document", "Save the page as PNG.")),
    (0, b"%!PS", _POSTSCRIPT),
    (0, b"\xc5\xd0\xd3\xc6", _POSTSCRIPT),
    (0, b"8BPS", Kind("a Photoshop document", _CONVERT)),
    (0, b"gimp xcf", Kind("a GIMP document", _CONVERT)),
    (0, b"\x76\x2f\x31\x01", Kind("an OpenEXR image", _CONVERT)),
    (0, b"#?RADIANCE", Kind("a Radiance HDR image", _CONVERT)),
    (0, b"SIMPLE  =", Kind("a FITS image", _CONVERT)),
    (128, b"DICM", Kind("a DICOM file", _MEDICAL)),
    (344, b"n+1\0", Kind("a NIfTI volume", _MEDICAL)),
    (0, b"\0\0\1\0", _ICON),
    (0, b"icns", _ICON),
    (0, b"DDS ", Kind("a DDS texture", _CONVERT)),
    (0, b"qoif", Kind("a QOI image", _CONVERT)),
    (0, b"\x93NUMPY", Kind("a NumPy array", "Pass the array itself, or save it as PNG.")),
    (0, b"PK\3\4", _ARCHIVE),
    (0, b"\x1f\x8b", _ARCHIVE),
    (
        0,
        b"version https://git-lfs",
        Kind("a Git LFS pointer", "Fetch the file with `git lfs pull`."),
    ),
)


def kind_of(content: bytes) -> Kind | None:
    """The kind of a file that Pillow does not read, by its first kilobyte; None if unknown."""
    for place, start, kind in _STARTS:
        if content.startswith(start, place):
            return kind
    text = content[:1000].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"<"):
        return _SVG if b"<svg" in text else _PAGE if b"<html" in text or b"<!doc" in text else None
    return None


def format_of(content: bytes, formats: tuple[str, ...]) -> str | None:
    """The Pillow format whose files start like this one, whatever follows."""
    for name in formats:
        accepts = Image.OPEN[name][1] if name in Image.OPEN else None
        if accepts is not None and accepts(content[:16]) is True:
            return name
    return None
