"""Pictures of every kind come out upright, RGB and of one size, or with an error that says why."""

from __future__ import annotations

import time
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vlm.image import ImageError, ImageTransform, load_image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def halves(mode: str = "RGB", left: Any = RED, right: Any = BLUE) -> Image.Image:
    """10 x 6 pixels: the left half of one colour, the right half of another."""
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
    with pytest.raises(ImageError, match=rf"a.{kind}: not a readable picture \("):
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
                warnings.simplefilter("ignore")  # Pillow's remarks on broken metadata
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
    with pytest.raises(ImageError, match=r"a.png: not a readable picture \(cannot identify"):
        load_image(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.png", "nowhere.png: there is no such file"),
        ("", "this is a folder; wanted a picture"),
        ("file.txt/a.png", "not a readable picture"),
        ("x" * 5000, "not a readable picture"),
        ("nul\0byte", "not a readable picture"),
    ],
)
def test_paths_without_a_picture(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file.txt").write_text("text")
    with pytest.raises(ImageError, match=message) as caught:
        load_image(tmp_path / name)
    assert len(str(caught.value)) < 500


def png_header(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be so large."""
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
    assert time.perf_counter() - start < 1


PIXELS = np.asarray(halves())  # (6, 10, 3)


@pytest.mark.parametrize(
    "array",
    [
        PIXELS,
        PIXELS.transpose(2, 0, 1),
        PIXELS / 255,
        (PIXELS / 255).astype(np.float16),
        PIXELS[::-1],
        torch.from_numpy(PIXELS.copy()),
        torch.from_numpy(PIXELS.copy()).permute(2, 0, 1),
        (torch.from_numpy(PIXELS.copy()) / 255).requires_grad_(),
        (torch.from_numpy(PIXELS.copy()) / 255).bfloat16(),
    ],
    ids=["uint8", "CHW", "float64", "float16", "reversed", "tensor", "CHW tensor", "grad", "bf16"],
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


def test_three_channels_last_wins() -> None:
    array = np.zeros((3, 5, 3), dtype=np.uint8)
    assert load_image(array).size == (5, 3)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((6, 10, 4), np.uint8), r"shape \(6, 10, 4\); wanted \(H, W\)"),
        (np.zeros((1, 6, 10), np.uint8), r"shape \(1, 6, 10\)"),
        (np.zeros((2, 3, 6, 10), np.uint8), r"shape \(2, 3, 6, 10\)"),
        (np.zeros(10, np.uint8), r"shape \(10,\)"),
        (np.zeros((0, 10, 3), np.uint8), r"shape \(0, 10, 3\)"),
        (np.zeros((6, 10, 3), np.int64), "dtype int64; wanted uint8 or float"),
        (np.zeros((6, 10), bool), "dtype bool"),
        (PIXELS.astype(np.float32), r"floats from 0 to 255; wanted \[0, 1\]"),
        (PIXELS / 255 * 2 - 1, "floats from -1 to 1"),
        (np.full((6, 10), np.nan), "floats from nan to nan"),
        (torch.zeros(6, 10, 3, dtype=torch.int32), "dtype int32"),
    ],
)
def test_other_arrays(array: Any, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load_image(array)


def test_image_error_is_a_value_error() -> None:
    assert issubclass(ImageError, ValueError)


# -------------------------------------------------------------------------------- transform


def test_squash_keeps_everything() -> None:
    transform = ImageTransform((4, 8), interpolation="nearest")
    pixels = transform(halves())
    assert (pixels.shape, pixels.dtype) == ((3, 4, 8), torch.uint8)
    assert pixels.is_contiguous()
    assert (pixels[0, :, :4] == 255).all()  # red
    assert (pixels[2, :, 4:] == 255).all()  # blue
    assert transform.box((10, 6)) == (0, 0, 10, 6)


def test_the_right_size_passes_unchanged() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    pixels = ImageTransform((6, 10))(Image.fromarray(noise))
    assert np.array_equal(pixels.permute(1, 2, 0).numpy(), noise)
    pixels[:] = 0  # its memory is its own
    assert noise.any()


def test_crop_takes_the_middle() -> None:
    image = Image.new("RGB", (30, 10), GREEN)  # the middle third is red
    image.paste(RED, (10, 0, 20, 10))
    transform = ImageTransform((5, 5), "nearest", fit="crop")
    pixels = transform(image)
    assert pixels.shape == (3, 5, 5)
    assert pixels.flatten(1).unique(dim=1).T.tolist() == [list(RED)]
    assert transform.box((30, 10)) == (10, 0, 20, 10)


def test_crop_share() -> None:
    transform = ImageTransform((5, 5), "nearest", fit="crop", crop_share=0.5)
    image = Image.new("RGB", (30, 10), GREEN)
    image.paste(RED, (12, 2, 18, 8))
    assert transform(image).flatten(1).unique(dim=1).T.tolist() == [list(RED)]
    assert transform.box((30, 10)) == pytest.approx((12.5, 2.5, 17.5, 7.5))


@pytest.mark.parametrize("size", [(97, 61), (61, 97), (64, 64), (640, 480)])
@pytest.mark.parametrize("share", [1.0, 0.875])
def test_box_is_where_the_input_lies(size: tuple[int, int], share: float) -> None:
    """On a picture whose colours are its coordinates, the corners say where they come from."""
    x, y = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    image = Image.fromarray(np.stack((x, y, x), -1).round().astype(np.uint8))
    for fit in ("squash", "crop"):
        transform = ImageTransform((32, 48), fit=fit, crop_share=share)
        pixels = transform(image).float()
        left, top, right, bottom = transform.box(size)
        step = max((right - left) / 48 / size[0], (bottom - top) / 32 / size[1])
        got = (pixels[0, 0, 0], pixels[1, 0, 0], pixels[0, -1, -1], pixels[1, -1, -1])
        wanted = (left / size[0], top / size[1], right / size[0], bottom / size[1])
        np.testing.assert_allclose(np.array(got) / 255, wanted, atol=1.1 * step + 2 / 255)


@pytest.mark.parametrize("filter_name", ["bilinear", "bicubic", "lanczos", "nearest"])
def test_every_filter_works(filter_name: Any) -> None:
    pixels = ImageTransform((3, 5), filter_name)(halves()).int()
    wanted = torch.tensor([RED, BLUE]).T
    torch.testing.assert_close(pixels[:, 0, [0, 4]], wanted.int(), rtol=0, atol=9)  # Lanczos rings


@pytest.mark.parametrize("fit", ["squash", "pad"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "nearest"])
def test_resizing_is_that_of_pillow(interpolation: Any, fit: Any) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (61, 97, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    for size in ((23, 31), (131, 113)):
        pixels = ImageTransform(size, interpolation, fit)(image)
        height, width = size
        if fit == "pad":
            rows = (pixels[3] > 0).any(1)
            pixels, height = pixels[:3, rows], int(rows.sum())
        method = Image.Resampling[interpolation.upper()]
        wanted = np.asarray(image.resize((width, height), method)).astype(int)
        off = np.abs(pixels.permute(1, 2, 0).numpy() - wanted)
        assert off.max() <= 1  # rounding


def test_pad_keeps_the_aspect_and_marks_the_photo() -> None:
    transform = ImageTransform((8, 10), "nearest", fit="pad")
    pixels = transform(halves())  # 10 x 6
    assert (transform.shape, pixels.shape, pixels.dtype) == ((4, 8, 10), (4, 8, 10), torch.uint8)
    assert pixels[3, :, 0].tolist() == [0, 255, 255, 255, 255, 255, 255, 0]
    assert np.array_equal(pixels[:3, 1:7].permute(1, 2, 0).numpy(), np.asarray(halves()))
    assert not pixels[:, [0, 7]].any()
    assert transform.box((10, 6)) == (0, -1, 10, 7)
    assert transform.box((20, 40)) == (-15, 0, 35, 40)
    blank = transform.blank(2)
    assert blank.shape == (2, 4, 8, 10)
    assert (blank[:, 3] == 255).all()
    assert transform.stack([]).shape == (0, 4, 8, 10)
    tall = transform(Image.new("RGB", (1, 9)))
    assert tall[3].sum(0).bool().tolist() == [False] * 4 + [True] + [False] * 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": (8,)}, r"size: got \(8,\)"),
        ({"size": (8, 0)}, r"size: got \(8, 0\)"),
        ({"interpolation": "box"}, "interpolation: got 'box'; wanted one of bilinear"),
        ({"fit": "stretch"}, "fit: got 'stretch'"),
        ({"crop_share": 0.0}, "crop_share: got 0.0"),
        ({"crop_share": 1.5}, "crop_share: got 1.5"),
    ],
)
def test_transform_refuses(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageTransform(**{"size": (8, 8), **arguments})
