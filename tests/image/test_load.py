"""Every kind of image loads upright, in RGB and at one size, or fails with a clear error."""

from __future__ import annotations

import io
import os
import socket
import time
import warnings
import zlib
from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vlm.image import ImageError, ImageTransform, load, load_image
from vlm.image.as_text import PICTURE, picture_of

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def halves(mode: str = "RGB", left: Any = RED, right: Any = BLUE) -> Image.Image:
    """Make a 10 x 6 image whose left and right halves have different colours."""
    image = Image.new(mode, (10, 6), right)
    image.paste(left, (0, 0, 5, 6))
    return image


def saved(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


def test_rgb(tmp_path: Path) -> None:
    path = saved(halves(), tmp_path / "a.png")
    for source in (path, str(path), halves()):
        image = load_image(source)
        assert (image.mode, image.size) == ("RGB", (10, 6))
        assert (image.getpixel((0, 0)), image.getpixel((9, 5))) == (RED, BLUE)


def test_an_image_that_is_given_is_not_the_one_returned() -> None:
    given = halves()
    load_image(given).paste(GREEN, (0, 0, 10, 6))
    assert given.getpixel((0, 0)) == RED


def test_cmyk(tmp_path: Path) -> None:
    path = saved(halves("CMYK", (0, 255, 255, 0), (255, 255, 0, 0)), tmp_path / "a.tif")
    image = load_image(path)
    assert (image.mode, image.getpixel((0, 0)), image.getpixel((9, 0))) == ("RGB", RED, BLUE)
    near = load_image(saved(halves("CMYK", (0, 255, 255, 0), (255, 255, 0, 0)), tmp_path / "a.jpg"))
    assert np.abs(np.subtract(near.getpixel((0, 0)), RED)).max() < 9


def test_grey(tmp_path: Path) -> None:
    image = load_image(saved(halves("L", 7, 200), tmp_path / "a.png"))
    assert (image.getpixel((0, 0)), image.getpixel((9, 0))) == ((7, 7, 7), (200, 200, 200))


def test_black_and_white(tmp_path: Path) -> None:
    image = load_image(saved(halves("1", 0, 1), tmp_path / "a.png"))
    assert (image.getpixel((0, 0)), image.getpixel((9, 0))) == ((0, 0, 0), WHITE)


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_16_bits_are_scaled(tmp_path: Path, kind: str) -> None:
    values = np.array([[0, 257, 25_700, 65_535]], dtype=np.uint16)
    image = load_image(saved(Image.fromarray(values), tmp_path / f"a.{kind}"))
    assert np.asarray(image)[0, :, 0].tolist() == [0, 1, 100, 255]


def test_palette(tmp_path: Path) -> None:
    image = load_image(saved(halves().quantize(2), tmp_path / "a.png"))
    assert (image.getpixel((0, 0)), image.getpixel((9, 0))) == (RED, BLUE)


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    image = load_image(saved(halves("RGBA", (255, 0, 0, 255), (0, 0, 0, 0)), tmp_path / "a.png"))
    assert (image.getpixel((0, 0)), image.getpixel((9, 0))) == (RED, WHITE)
    image = load_image(saved(halves("LA", (7, 255), (0, 0)), tmp_path / "b.png"))
    assert (image.getpixel((0, 0)), image.getpixel((9, 0))) == ((7, 7, 7), WHITE)
    palette = halves().quantize(2)
    index = palette.getpixel((9, 0))
    image = load_image(saved(palette, tmp_path / "c.png", transparency=index))
    assert (image.getpixel((0, 0)), image.getpixel((9, 0))) == (RED, WHITE)
    image = load_image(saved(halves(), tmp_path / "d.png", transparency=BLUE))
    assert (image.getpixel((0, 0)), image.getpixel((9, 0))) == (RED, WHITE)


@pytest.mark.parametrize(
    ("orientation", "size", "corner"),
    [(1, (10, 6), RED), (3, (10, 6), BLUE), (6, (6, 10), RED), (8, (6, 10), BLUE)],
)
def test_exif_rotation(
    tmp_path: Path, orientation: int, size: tuple[int, int], corner: tuple[int, ...]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = load_image(saved(halves(), tmp_path / "a.png", exif=exif))
    assert (image.size, image.getpixel((0, 0))) == (size, corner)


def test_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (10, 6), colour) for colour in (RED, GREEN, BLUE)]
    path = saved(frames[0], tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert load_image(path).getpixel((0, 0)) == RED


@pytest.mark.parametrize("kind", ["png", "jpg", "gif", "bmp", "webp", "tif"])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_truncated(tmp_path: Path, kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 50, 3), dtype=np.uint8)
    path = saved(Image.fromarray(noise), tmp_path / f"a.{kind}")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ImageError, match=rf"a.{kind}: not a readable image \("):
        load_image(path)


def test_corrupt_files_raise_nothing_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for kind in ("png", "jpg", "gif", "tif"):
        data = saved(halves(), tmp_path / f"a.{kind}").read_bytes()
        for trial in range(60):
            broken = bytearray(data)
            for place in rng.integers(0, len(data), 3):
                broken[place] = rng.integers(256)
            path = tmp_path / f"{trial}.{kind}"
            path.write_bytes(broken)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's warnings about broken metadata
                try:
                    assert load_image(path).mode == "RGB"
                except ImageError as error:
                    assert str(path) in str(error)  # noqa: PT017  some of the files are read without an error


def test_empty(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(ImageError, match=r"a.png: .*the file is empty"):
        load_image(tmp_path / "a.png")


def test_text_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("<html>404</html>")
    with pytest.raises(ImageError, match=r"a.png: not a readable image: this is a web page"):
        load_image(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.png", "nowhere.png: there is no such file"),
        ("", "this is a folder; expected an image"),
        ("file.txt/a.png", "not a readable image"),
        ("x" * 5000, "not a readable image"),
        ("nul\0byte", "not a readable image"),
    ],
)
def test_paths_without_a_image(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file.txt").write_text("text")
    with pytest.raises(ImageError, match=message) as caught:
        load_image(tmp_path / name)
    assert len(str(caught.value)) < 500


def png_header(width: int, height: int) -> bytes:
    """Make a PNG of a few bytes whose header claims this size."""
    data = b"IHDR" + width.to_bytes(4) + height.to_bytes(4) + b"\x08\x02\x00\x00\x00"
    chunks = (13).to_bytes(4) + data + zlib.crc32(data).to_bytes(4)
    body = b"IDAT" + zlib.compress(bytes(9))
    return b"\x89PNG\r\n\x1a\n" + chunks + len(body[4:]).to_bytes(4) + body + bytes(4)


@pytest.mark.parametrize("side", [8_001, 10_000, 60_000], ids=["ours", "warning", "bomb"])
def test_too_many_pixels_are_refused_quickly(tmp_path: Path, side: int) -> None:
    (tmp_path / "a.png").write_bytes(png_header(side, side))
    start = time.perf_counter()
    with pytest.raises(ImageError, match=r"a.png: .*pixels"):
        load_image(tmp_path / "a.png")
    assert time.perf_counter() - start < 0.5


PIXELS = np.asarray(halves())  # (6, 10, 3)


@pytest.mark.parametrize(
    "array",
    [
        PIXELS,
        PIXELS.transpose(2, 0, 1),
        PIXELS / 255,
        (PIXELS / 255).astype(np.float16),
        PIXELS[::-1],
        PIXELS.astype(np.uint16) * 257,
        np.dstack([PIXELS, np.full((6, 10), 255, np.uint8)]),
        torch.from_numpy(PIXELS.copy()),
        torch.from_numpy(PIXELS.copy()).permute(2, 0, 1),
        (torch.from_numpy(PIXELS.copy()) / 255).requires_grad_(),
        (torch.from_numpy(PIXELS.copy()) / 255).bfloat16(),
    ],
    ids=[
        "uint8",
        "CHW",
        "float64",
        "float16",
        "reversed",
        "uint16",
        "alpha",
        "tensor",
        "CHW tensor",
        "grad",
        "bf16",
    ],
)
def test_arrays(array: Any) -> None:
    image = load_image(array)
    assert (image.mode, image.size) == ("RGB", (10, 6))
    assert np.array_equal(np.asarray(image), PIXELS)


@pytest.mark.parametrize("scale", [1, 255])
def test_grey_arrays(scale: int) -> None:
    grey = np.array([[0, 51, 255]], dtype=np.uint8)
    image = load_image(grey if scale == 1 else grey / 255)
    assert np.asarray(image)[0].tolist() == [[0] * 3, [51] * 3, [255] * 3]


def test_one_channel_is_grey() -> None:
    grey = np.arange(60, dtype=np.uint8).reshape(6, 10)
    for array in (grey[None], grey[..., None], torch.from_numpy(grey)[None]):
        assert np.array_equal(np.asarray(load_image(array))[..., 1], grey)


def test_an_array_s_alpha_is_laid_on_white() -> None:
    array = np.zeros((4, 2, 5), np.uint8)
    array[3, :, 3:] = 255
    assert np.asarray(load_image(array))[0, :, 0].tolist() == [255, 255, 255, 0, 0]


def test_three_channels_last_wins() -> None:
    array = np.zeros((3, 5, 3), dtype=np.uint8)
    assert load_image(array).size == (5, 3)
    assert load_image(torch.from_numpy(array)).size == (3, 5)  # and in a tensor first


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((6, 10, 5), np.uint8), r"shape \(6, 10, 5\); expected \(H, W\)"),
        (np.zeros((2, 6, 10), np.uint8), r"shape \(2, 6, 10\)"),
        (np.zeros((2, 3, 6, 10), np.uint8), r"shape \(2, 3, 6, 10\)"),
        (np.zeros(10, np.uint8), r"shape \(10,\)"),
        (np.zeros((0, 10, 3), np.uint8), r"shape \(0, 10, 3\)"),
        (np.zeros((6, 10, 3), np.int64), "dtype int64; expected uint8 or float"),
        (np.zeros((6, 10), bool), "dtype bool"),
        (PIXELS.astype(np.float32), r"floats from 0 to 255; expected \[0, 1\]"),
        (PIXELS / 255 * 2 - 1, "floats from -1 to 1"),
        (np.full((6, 10), np.nan), "floats from nan to nan"),
        (torch.zeros(6, 10, 3, dtype=torch.int32), "dtype int32"),
    ],
)
def test_other_arrays(array: Any, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load_image(array)


@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "webp"])
def test_a_file_is_read_however_it_is_given(kind: str, tmp_path: Path) -> None:
    path = saved(halves(), tmp_path / f"a.{kind}")
    expected, content = load_image(path), path.read_bytes()

    class Entry:  # such as os.DirEntry
        def __fspath__(self) -> str:
            return str(path)

    with path.open("rb") as file, path.open("rb", buffering=0) as raw:
        files = (file, file, raw, io.BytesIO(content))
        for source in (
            str(path),
            Entry(),
            content,
            bytearray(content),
            memoryview(content),
            *files,
        ):
            assert load_image(source).tobytes() == expected.tobytes()
        assert not file.closed


@pytest.mark.parametrize(
    "source", [None, 7, 1.5, ["a.png"], {"image": "a.png"}, iter(()), object, {1}, True]
)
def test_what_is_no_image_is_a_type_error(source: Any) -> None:
    with pytest.raises(TypeError, match=rf"image: got {type(source).__name__}; expected a path, "):
        load_image(source)


def test_a_text_file_object_is_refused(tmp_path: Path) -> None:
    saved(halves(), tmp_path / "a.png")
    message = "reads str; expected one opened with mode"
    with (
        (tmp_path / "a.png").open(encoding="latin-1") as file,
        pytest.raises(ImageError, match=message),
    ):
        load_image(file)


def test_image_error_is_a_value_error() -> None:
    assert issubclass(ImageError, ValueError)


def test_too_many_bytes_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(halves(), tmp_path / "a.png")
    monkeypatch.setattr(load, "MAX_BYTES", path.stat().st_size - 1)
    for source in (path, path.read_bytes()):
        with pytest.raises(ImageError, match=r"(a.png|image): the file has \d+ bytes") as error:
            load_image(source)
        assert error.value.kind == "oversized"


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
def test_extreme_shapes_are_read(size: tuple[int, int], fit: Any, tmp_path: Path) -> None:
    image = load_image(saved(Image.new("RGB", size, RED), tmp_path / "a.png"))
    assert image.size == size
    pixels = ImageTransform((7, 5), fit=fit)(image)
    assert pixels[0].max() == 255
    assert not pixels[1:3].any()


def test_numbers_of_32_bits_are_not_clamped() -> None:
    image = Image.fromarray(np.array([[0, 65_535]], np.int32))
    assert np.asarray(load_image(image))[0, :, 0].tolist() == [0, 255]
    for value in (-1, 65_536):
        with pytest.raises(ImageError, match=r"whole numbers from .*; expected 16 bits"):
            load_image(Image.fromarray(np.array([[7, value]], np.int32)))


def test_floats_are_read_as_arrays_are(tmp_path: Path) -> None:
    grey = np.array([[0, 0.2, 1]], np.float32)
    path = saved(Image.fromarray(grey), tmp_path / "a.tif")
    assert np.asarray(load_image(path))[0, :, 0].tolist() == [0, 51, 255]
    with pytest.raises(ImageError, match=r"floats from 29.07 to 76.245; expected \[0, 1\]"):
        load_image(halves().convert("F"))


def test_premultiplied_transparency() -> None:
    half = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    assert load_image(half.convert("RGBa")).getpixel((0, 0)) == WHITE
    assert load_image(half.convert("LA").convert("La")).getpixel((0, 0)) == WHITE


def test_an_opened_image_is_judged_like_a_file(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 50, 3), dtype=np.uint8)
    path = saved(Image.fromarray(noise), tmp_path / "a.png")
    path.write_bytes(path.read_bytes()[:3000])
    with Image.open(path) as opened, pytest.raises(ImageError, match="image: not a readable"):
        load_image(opened)
    with pytest.raises(ImageError, match="image: the image has 0 x 5 pixels"):
        load_image(Image.new("RGB", (0, 5)))
    with pytest.raises(ImageError, match=r"image: the image has 10,000 x 7,000 pixels"):
        load_image(Image.new("1", (10_000, 7_000)))


def test_rare_formats_are_not_opened(tmp_path: Path) -> None:
    """To read an EPS file, Pillow would run Ghostscript on untrusted code."""
    path = saved(halves(), tmp_path / "a.eps")
    with pytest.raises(ImageError, match=r"a.eps: not a readable image: this is a PostScript"):
        load_image(path)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.png"))
        for path in (tmp_path / "pipe.png", tmp_path / "socket.png", "/dev/zero", "/dev/null"):
            with pytest.raises(ImageError, match="this is a pipe, socket or device"):
                load_image(path)


def test_an_icon_is_refused_before_what_is_in_it_is_decoded(tmp_path: Path) -> None:
    """A 16 x 16 icon may hold an image of any size, and Pillow decodes it on opening."""
    path = saved(Image.new("1", (16, 16)), tmp_path / "a.ico", sizes=[(16, 16)])
    with pytest.raises(ImageError, match="not a readable image"):
        load_image(path)


def test_a_file_s_own_error_stays_as_it_is() -> None:
    class Elsewhere(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise ImageError("shard-0.tar: cannot be read.")

    with pytest.raises(ImageError, match=r"^shard-0\.tar: cannot be read\.$"):
        load_image(Elsewhere())


def test_transparency_of_16_bits_becomes_white(tmp_path: Path) -> None:
    values = np.array([[0, 30_000], [65_535, 0]], np.uint16)
    path = tmp_path / "clear.png"
    Image.fromarray(values).save(path, transparency=0)
    pixels = np.asarray(load_image(path))[..., 0]
    assert pixels.tolist() == [[255, 30_000 // 257], [255, 255]]


def test_an_opened_image_keeps_its_size() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (800, 600), "red").save(buffer, "JPEG")
    opened = Image.open(buffer)
    assert load_image(opened, enough=(100, 100)).size == (800, 600)
    assert opened.size == (800, 600)


def test_a_picture_in_an_answer_is_read_with_the_same_limits() -> None:
    buffer = io.BytesIO()
    Image.new("1", (1, 1)).save(buffer, "PNG")
    content = bytearray(buffer.getvalue())
    content[16:24] = (30_000).to_bytes(4) * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4)
    for bad in (bytes(content), b"GIF89a", b""):
        with pytest.raises(ValueError, match="expected a PNG in base64"):
            picture_of(PICTURE + b64encode(bad).decode())
