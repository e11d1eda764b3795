"""Bytes posing as an image give an upright RGB image, or `ImageError`."""

from __future__ import annotations

import struct
import warnings
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from fuzzing import fuzz, mutated, tried
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from vlm.image import ImageError, ImageTransform, load, load_image
from vlm.image.container import pixels_only
from vlm.serve.reader import read_upload

# As for a user: warnings from Pillow are not errors.
pytestmark = pytest.mark.filterwarnings("ignore")

PNG = b"\x89PNG\r\n\x1a\n"
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (13, 17, 3), np.uint8))
DEEP = Image.fromarray(np.random.default_rng(1).integers(0, 65_536, (13, 17), np.uint16))
FLOATS = Image.fromarray(np.random.default_rng(2).random((13, 17), np.float32))


def saved(kind: str, image: Image.Image = NOISE, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def rotated() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    return exif


def words() -> PngInfo:
    info = PngInfo()
    info.add_text("title", "a title" * 99, zip=True)
    info.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>', zip=True)
    return info


FRAMES = {"save_all": True, "append_images": [NOISE.rotate(90), NOISE.rotate(180)], "duration": 9}
WHOLE = [
    saved("PNG"),
    saved("PNG", NOISE.convert("RGBA"), exif=rotated()),
    saved("PNG", NOISE.convert("P"), transparency=3),
    saved("PNG", NOISE.convert("1")),
    saved("PNG", NOISE.convert("LA")),
    saved("PNG", DEEP),
    saved("PNG", **FRAMES),
    saved("JPEG", exif=rotated()),
    saved("JPEG", NOISE.convert("CMYK"), quality=95),
    saved("JPEG", NOISE.convert("L"), progressive=True),
    saved("GIF", NOISE.convert("P"), **FRAMES),
    saved("GIF", NOISE.convert("P"), transparency=7),
    saved("WEBP", lossless=True),
    saved("WEBP", NOISE.convert("RGBA"), exif=rotated(), **FRAMES),
    saved("BMP"),
    saved("BMP", NOISE.convert("P")),
    *(saved("TIFF", compression=name) for name in ("raw", "tiff_lzw", "tiff_deflate", "jpeg")),
    saved("TIFF", NOISE.convert("CMYK"), exif=rotated()),
    saved("TIFF", DEEP),
    saved("TIFF", FLOATS),
    saved("TIFF", NOISE.convert("LAB")),
    saved("TIFF", **FRAMES),
    saved("JPEG", exif=rotated(), progressive=True, comment=b"c" * 99, icc_profile=b"p" * 99),
    saved("MPO", **FRAMES),
    saved("PNG", exif=rotated(), icc_profile=b"p" * 99, pnginfo=words()),
    saved("GIF", NOISE.convert("P"), comment=b"c" * 600),
    saved("WEBP", exif=rotated(), xmp=b"x" * 99, icc_profile=b"p" * 99),
    saved("AVIF", exif=rotated()),
    saved("PPM"),
    saved("TGA", NOISE.convert("RGBA")),
    saved("JPEG2000"),
]


def with_checksums(content: bytes) -> bytes:
    """Correct the checksums of a PNG, so that its errors lie deeper."""
    if not content.startswith(PNG):
        return content
    fixed, place = bytearray(PNG), len(PNG)
    while place + 12 <= len(content):
        length = min(int.from_bytes(content[place : place + 4]), len(content) - place - 12)
        chunk = content[place + 4 : place + 8 + length]
        fixed += struct.pack(">I", length) + chunk + struct.pack(">I", zlib.crc32(chunk))
        place += 12 + length
    return bytes(fixed)


contents = st.one_of(
    st.sampled_from(WHOLE).flatmap(mutated),
    st.sampled_from(WHOLE[:7]).flatmap(mutated).map(with_checksums),
    st.binary(max_size=200),
)
arrays = st.builds(
    lambda shape, kind, scale, seed: (np.random.default_rng(seed).random(shape) * scale).astype(
        kind
    ),
    st.lists(st.integers(0, 6), min_size=1, max_size=4),
    st.sampled_from(["uint8", "uint16", "int32", "int64", "bool", "float16", "float32", "float64"]),
    st.sampled_from([0.0, 1.0, 255.0, 4095.0, 65_535.0, -1.0, 1e300, float("nan"), float("inf")]),
    st.integers(0, 9),
)
TRANSFORM = ImageTransform((5, 7), fit="pad")


def test_the_whole_ones_can_be_read() -> None:
    for content in WHOLE:
        assert load_image(content).mode == "RGB"


@fuzz
@given(content=contents)
def test_any_bytes_are_a_image_or_an_image_error(content: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "MAX_PIXELS", 1_000_000)  # larger ones only take longer
        image, error = tried(lambda: load_image(content), ImageError)
        if error is not None:
            assert error.startswith("image: ")
            assert len(error) < 500
        else:
            assert image.mode == "RGB"
            assert image.width * image.height <= load.MAX_PIXELS
            assert TRANSFORM(image).shape == TRANSFORM.shape


@fuzz
@given(content=contents)
def test_what_is_left_out_is_no_pixel(content: bytes) -> None:
    """Whatever Pillow reads with metadata, it reads without, as the same image."""
    rest = pixels_only(content)
    if rest is None or content[:2] in (b"II", b"MM"):
        return  # in TIFF, Pillow skips all tags after a damaged one
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(BytesIO(content), formats=load.FORMATS) as image:
                if image.width * image.height > 1_000_000:
                    return
                whole = image.convert("RGBA").tobytes()
        except Exception:  # a corrupt file can raise anything
            return
        with Image.open(BytesIO(rest), formats=load.FORMATS) as image:
            assert image.convert("RGBA").tobytes() == whole


@fuzz
@given(array=arrays, level=st.one_of(st.none(), st.just("max"), st.floats(1e-3, 1e5)))
def test_any_array_is_a_image_or_an_image_error(array: np.ndarray, level: Any) -> None:
    image, error = tried(lambda: load_image(array, level), ImageError)
    if error is None:
        assert image.mode == "RGB"
        assert set(image.size) <= set(array.shape)


@fuzz
@given(content=contents)
def test_the_demo_reads_them_or_says_why(content: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vlm.serve.reader.MAX_PIXELS", 1_000_000)
        photo, error = tried(lambda: read_upload(content), ImageError)
    assert photo.image.mode == "RGB" if error is None else error
