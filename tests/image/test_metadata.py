"""Damaged metadata never costs an image, and damaged pixels are never overlooked."""

from __future__ import annotations

import struct
import threading
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

from vlm.image import ImageError, load_image
from vlm.image.container import pixels_only

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow's warnings about broken metadata

BLOCKS = np.random.default_rng(0).integers(0, 256, (6, 10, 3), np.uint8)
PICTURE = Image.fromarray(np.kron(BLOCKS, np.ones((8, 8, 1), np.uint8)))


def saved(kind: str, image: Image.Image = PICTURE, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


PNG, JPEG = saved("PNG"), saved("JPEG", quality=95, subsampling=0)
WEBP = saved("WEBP", lossless=True)
BOMB = zlib.compress(b"a" * 3_000_000)


def chunk(name: bytes, data: bytes, checksum: int | None = None) -> bytes:
    found = zlib.crc32(name + data) if checksum is None else checksum
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", found)


def png(*chunks: bytes, at: int = 33) -> bytes:
    """Insert chunks into the PNG, by default right after its header."""
    return PNG[:at] + b"".join(chunks) + PNG[at:]


def segment(marker: int, data: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(data) + 2) + data


def jpeg(*segments: bytes) -> bytes:
    return JPEG[:2] + b"".join(segments) + JPEG[2:]


def webp(flags: int, *chunks: tuple[bytes, bytes]) -> bytes:
    head = struct.pack("<I", flags) + (79).to_bytes(3, "little") + (47).to_bytes(3, "little")
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + head + WEBP[12:]
    for name, data in chunks:
        body += name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def exif(*entries: tuple[int, int, int, int], count: int | None = None, next_one: int = 0) -> bytes:
    """Build little-endian EXIF from entries of tag, type, count and offset."""
    head = b"II*\0" + struct.pack("<IH", 8, len(entries) if count is None else count)
    return head + b"".join(struct.pack("<HHII", *e) for e in entries) + struct.pack("<I", next_one)


TURNED = (0x0112, 3, 1, 6)
SOUND = exif(TURNED)
UNUSABLE = {
    "nothing": b"",
    "garbage": b"garbage of many kinds",
    "header": SOUND[:8],
    "cut in its table": SOUND[:14],
    "orientation 0": exif((0x0112, 3, 1, 0)),
    "orientation 9": exif((0x0112, 3, 1, 9)),
    "orientation of text": exif((0x0112, 2, 2, 54)),
    "orientation of no kind": exif((0x0112, 99, 1, 6)),
    "orientation without a value": exif((0x0112, 3, 0, 6)),
    "a fraction by 0": exif((0x0112, 5, 1, 0xC)),
    "the other byte order": b"MM*\0" + SOUND[4:],
    "beyond the end": b"II*\0" + struct.pack("<I", 2**31 - 1),
    "64 bits": b"II+\0\x08\0\0\0" + struct.pack("<Q", 16),
}
TURNING = {
    "sound": SOUND,
    "a table of 65,535": exif(TURNED, count=65_535),
    "a loop": exif((0x0112, 3, 1, 6), next_one=8),
    "a loop inside": exif(TURNED, (0x8769, 4, 1, 8)),
    "a note beyond the end": exif(TURNED, (0x927C, 7, 100, 9_999_999)),
}


def carriers(content: bytes) -> Iterator[bytes]:
    yield png(chunk(b"eXIf", content))
    yield jpeg(segment(0xE1, b"Exif\0\0" + content))
    yield webp(8, (b"EXIF", content))


@pytest.mark.parametrize("kind", UNUSABLE)
def test_exif_that_is_damaged_turns_nothing(kind: str) -> None:
    for content in carriers(UNUSABLE[kind]):
        assert same(load_image(content))


@pytest.mark.parametrize("kind", TURNING)
def test_exif_turns_the_image_whatever_else_is_in_it(kind: str) -> None:
    for content in carriers(TURNING[kind]):
        assert same(load_image(content), Image.Transpose.ROTATE_270)


def same(image: Image.Image, turn: Image.Transpose | None = None) -> bool:
    expected = PICTURE if turn is None else PICTURE.transpose(turn)
    if image.size != expected.size:
        return False
    difference = np.subtract(np.asarray(image, np.int16), np.asarray(expected))
    return bool(np.abs(difference).mean() < 2)  # JPEG


def tiff(*further: tuple[int, int, int, int], order: str = "<") -> bytes:
    """Build the image as a TIFF with extra tags, which replace those with the same number."""
    width, height = PICTURE.size
    tags = {
        256: (4, 1, width),
        257: (4, 1, height),
        258: (3, 3, None),
        259: (4, 1, 1),
        262: (4, 1, 2),
        273: (4, 1, None),
        277: (4, 1, 3),
        278: (4, 1, height),
        279: (4, 1, 3 * width * height),
    } | {tag: rest for tag, *rest in further}
    end = 8 + 2 + 12 * len(tags) + 4
    table = struct.pack(order + "H", len(tags))
    for tag, (kind, number, value) in sorted(tags.items()):
        place = end + 6 * (tag == 273) if value is None else value
        table += struct.pack(order + "HHII", tag, kind, number, place)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    return head + table + bytes(4) + struct.pack(order + "3H", 8, 8, 8) + PICTURE.tobytes()


FAR = 99_999_999
SOUND_PIXELS = {
    # PNG
    "compressed text": png(chunk(b"zTXt", b"k\0\0" + BOMB)),
    "international text": png(chunk(b"iTXt", b"k\0\1\0\0\0" + BOMB)),
    "text at the end": png(chunk(b"iTXt", b"k\0\1\0\0\0" + BOMB), at=-12),
    "70 MB of text": png(*[chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(10**6)))] * 70),
    "colour profile": png(chunk(b"iCCP", b"k\0\0" + BOMB)),
    "profile of another compression": png(chunk(b"iCCP", b"k\0\1" + BOMB)),
    "empty profile": png(chunk(b"iCCP", b"")),
    "checksum of text": png(chunk(b"tEXt", b"k\0v", checksum=1)),
    "checksum of text at the end": png(chunk(b"tEXt", b"k\0v", checksum=1), at=-12),
    **{name.decode(): png(chunk(name, b"")) for name in (b"pHYs", b"sRGB", b"gAMA", b"acTL")},
    "frames out of order": png(
        chunk(b"acTL", struct.pack(">2I", 2, 0)),
        chunk(b"fcTL", struct.pack(">5I2H2B", 7, 80, 48, 0, 0, 1, 1, 0, 0)),
    ),
    "a name that is none": png(chunk(b"pr\xffT", b"x")),
    "EXIF as text": png(chunk(b"tEXt", b"Raw profile type exif\0\nexif\n   8\nzz")),
    "XMP": png(chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="9')),
    "after the end of PNG": PNG + b"trailing" * 99,
    "PNG without its end": PNG[:-12],
    # JPEG
    "short profile": jpeg(segment(0xE2, b"ICC_PROFILE\0")),
    "part of a profile": jpeg(segment(0xE2, b"ICC_PROFILE\0\1\2abc")),
    "255 parts": jpeg(*(segment(0xE2, b"ICC_PROFILE\0" + bytes((n, 255))) for n in range(256))),
    "several images": jpeg(segment(0xE2, b"MPF\0garbage")),
    "short JFIF": JPEG[:2] + segment(0xE0, b"JFIF") + JPEG[20:],
    "short Adobe": jpeg(segment(0xEE, b"Adobe")),
    "Photoshop": jpeg(segment(0xED, b"Photoshop 3.0\x008BIM\4\4\0\0\xff\xff\xff\xffabc")),
    "a thumbnail": jpeg(segment(0xE1, b"Exif\0\0" + JPEG[:300] + b"\xff\xd9")),
    "a comment": jpeg(segment(0xFE, JPEG[:100])),
    "bytes between segments": JPEG[:2] + b"garbage" + JPEG[2:],
    "zeros between segments": JPEG[:2] + bytes(2) + JPEG[2:],
    "after the end of JPEG": JPEG + bytes(999),
    "JPEG without its end": JPEG[:-2],
    "JPEG without half its end": JPEG[:-1],
    "progressive without its end": saved("JPEG", quality=95, subsampling=0, progressive=True)[:-2],
    # WebP
    "garbage of XMP": webp(4, (b"XMP ", b"garbage")),
    "3 MB of EXIF": webp(8, (b"EXIF", b"x" * 3_000_000)),
    "EXIF cut off": webp(8, (b"EXIF", b"x" * 300))[:-99],
    "a profile that is not there": webp(32),
    "WebP that says it is longer": WEBP[:4] + struct.pack("<I", len(WEBP) + 10) + WEBP[8:],
    "WebP that says it is shorter": WEBP[:4] + struct.pack("<I", len(WEBP) - 20) + WEBP[8:],
    # TIFF
    "TIFF": tiff(),
    "TIFF of the other byte order": tiff(order=">"),
    "orientations beyond the end": tiff((274, 3, 100, FAR)),
    "4 GB of description": tiff((270, 2, 2**32 - 1, 8)),
    "a tag of no kind": tiff((65_000, 77, 1, 8)),
    "a table that holds itself": tiff((34_665, 4, 1, 8)),
    "a profile beyond the end": tiff((34_675, 7, FAR, 8)),
    "after the end of TIFF": tiff() + bytes(999),
}


@pytest.mark.parametrize("kind", SOUND_PIXELS)
def test_sound_pixels_are_read(kind: str, tmp_path: Path) -> None:
    assert same(load_image(SOUND_PIXELS[kind]))
    (tmp_path / "file").write_bytes(SOUND_PIXELS[kind])
    assert same(load_image(tmp_path / "file"))


def test_a_turned_image_is_turned_without_the_metadata_that_cannot_be_read() -> None:
    content = png(chunk(b"zTXt", b"k\0\0" + BOMB), chunk(b"eXIf", SOUND))
    assert same(load_image(content), Image.Transpose.ROTATE_270)


@pytest.mark.parametrize("cut", [3, 4, 10, 100, 1000])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_lacks_pixels_is_refused(cut: int, progressive: bool) -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (60, 50, 3), np.uint8))
    content = saved("JPEG", noise, progressive=progressive)
    load_image(content[:-2])
    with pytest.raises(ImageError, match="truncated"):
        load_image(content[:-cut])


def test_missing_rows_of_one_colour_are_missing_too() -> None:
    content = saved("JPEG", Image.new("RGB", (640, 480), "white"), progressive=False)
    for cut in (3, 20, 200):
        with pytest.raises(ImageError):
            load_image(content[:-cut])


@pytest.mark.parametrize("kind", ["70 MB of text", "compressed text", "4 GB of description"])
def test_metadata_takes_little_memory(kind: str) -> None:
    tracemalloc.start()
    try:
        load_image(SOUND_PIXELS[kind])
        # Pillow alone keeps up to 64 MB of text before it gives up.
        assert tracemalloc.get_traced_memory()[1] < 150_000_000
    finally:
        tracemalloc.stop()


def test_no_switch_of_pillow_is_touched() -> None:
    """Changing Pillow's globals would let other threads accept damaged images."""
    switches = (ImageFile.LOAD_TRUNCATED_IMAGES, PngImagePlugin.MAX_TEXT_CHUNK)
    stop, seen = threading.Event(), set()

    def watch() -> None:
        while not stop.is_set():
            seen.add((ImageFile.LOAD_TRUNCATED_IMAGES, PngImagePlugin.MAX_TEXT_CHUNK))

    watcher = threading.Thread(target=watch)
    watcher.start()
    for content in SOUND_PIXELS.values():
        load_image(content)
    stop.set()
    watcher.join()
    assert seen == {switches}


GIF = saved("GIF", PICTURE.quantize(16), save_all=True, append_images=[PICTURE.rotate(180)])
MANY = {
    "EXIF": jpeg(segment(0xE1, b"Exif\0\0x") * 900_000),
    "comments before a frame": GIF[:61] + b"\x21\xfe\1a\0" * 900_000 + GIF[61:],
    "comments after a frame": GIF[:-1] + b"\x21\xfe\1a\0" * 900_000 + b";",
}


@pytest.mark.parametrize("kind", MANY)
def test_many_parts_take_no_time_that_grows_with_their_square(kind: str) -> None:
    start = time.process_time()
    assert load_image(MANY[kind]).size == PICTURE.size
    assert time.process_time() - start < 6  # Pillow alone takes minutes


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_many_scans_of_many_pixels_are_refused(kind: str) -> None:
    content = saved("JPEG", Image.new("L", (8_000, 8_000)), progressive=True)
    last = content.rindex(b"\xff\xda")
    content = content[:-2] + content[last:-2] * 50 + b"\xff\xd9"
    if kind == "TIFF":
        tags = {258: (3, 1, 8), 259: (3, 1, 7), 262: (3, 1, 1), 277: (3, 1, 1)}
        sides = {256: (4, 1, 8_000), 257: (4, 1, 8_000), 278: (4, 1, 8_000)}
        place = 10 + 12 * 9 + 4
        strip = {273: (4, 1, place), 279: (4, 1, len(content))}
        entries = sorted((tags | sides | strip).items())
        table = b"".join(struct.pack("<HHII", tag, *rest) for tag, rest in entries)
        content = b"II*\0" + struct.pack("<IH", 8, 9) + table + bytes(4) + content
    start = time.process_time()
    with pytest.raises(ImageError, match=r"8,000 x 8,000 pixels .* in \d+ scans") as caught:
        load_image(content)
    assert caught.value.kind == "oversized"
    assert time.process_time() - start < 1


@pytest.mark.parametrize("ending", [b"", b"\xff\xda" * 999])
def test_strips_and_what_follows_the_end_are_no_scans(ending: bytes) -> None:
    large = PICTURE.resize((4_000, 3_000))
    strips = saved("TIFF", large, compression="jpeg")
    assert strips.count(b"\xff\xda") > 99
    for content in (strips, saved("JPEG", large) + ending, saved("JPEG", large, progressive=True)):
        assert load_image(content).size == large.size


def frames() -> dict[str, Any]:
    # Fresh images each time: Pillow records in an image how it was saved.
    return {"save_all": True, "append_images": [PICTURE.rotate(180)]}


ORDINARY = [
    *(saved("PNG", PICTURE.convert(mode)) for mode in ("RGB", "RGBA", "L", "LA", "1", "P", "I;16")),
    saved("PNG", PICTURE.quantize(9), transparency=3, dpi=(72, 72)),
    saved("PNG", **frames()),
    *(saved("JPEG", PICTURE.convert(mode), comment="c") for mode in ("RGB", "L", "CMYK", "YCbCr")),
    saved("JPEG", progressive=True, dpi=(9, 9), icc_profile=b"x" * 99_999),
    saved("JPEG", keep_rgb=True),
    saved("MPO", **frames()),
    GIF,
    saved("GIF", PICTURE.quantize(9), transparency=3, comment=b"c" * 999),
    saved("WEBP", PICTURE.convert("RGBA"), exif=b"x", icc_profile=b"y"),
    saved("WEBP", **frames()),
    saved("TIFF", PICTURE.copy(), **frames()),
    *(saved("TIFF", compression=name) for name in ("tiff_lzw", "jpeg")),
    saved("TIFF", PICTURE.convert("1"), compression="group4", dpi=(9, 9)),
]


@pytest.mark.parametrize("number", range(len(ORDINARY)))
def test_what_is_left_out_of_an_ordinary_file_is_no_pixel(number: int) -> None:
    content = ORDINARY[number]
    rest = pixels_only(content)
    assert rest is not None
    with Image.open(BytesIO(content)) as whole, Image.open(BytesIO(rest)) as left:
        assert left.size == whole.size
        assert left.mode == whole.mode
        assert left.convert("RGBA").tobytes() == whole.convert("RGBA").tobytes()
        if whole.format != "MPO":  # a stereo pair is not an animation
            assert getattr(left, "is_animated", False) == getattr(whole, "is_animated", False)
