"""Images are fitted to the encoder's size, and input positions map back to the photo."""

from __future__ import annotations

import sys
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from test_load import BLUE, GREEN, RED, halves
from torch.nn import functional as F

from vlm.image import ImageTransform


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
    pixels[:] = 0  # shares no memory with the source
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
    """The image's colours are its coordinates, so the input's corners show where they came from."""
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


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("arrow", [True, False], ids=["Arrow", "no Arrow"])
def test_a_jpeg_has_every_pixel_that_pillow_decodes(
    arrow: bool, interpolation: Any, subsampling: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not arrow:
        monkeypatch.delitem(sys.modules, "pyarrow")
    noise = np.random.default_rng(0).integers(0, 256, (61, 97, 3), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", subsampling=subsampling)
    decoded = torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1)[None]
    wanted = F.interpolate(decoded, (23, 31), mode=interpolation, antialias=True)[0]
    assert torch.equal(ImageTransform((23, 31), interpolation).open(buffer.getvalue()), wanted)


def test_a_large_image_in_several_blocks_of_memory() -> None:
    row = np.arange(2400 * 3, dtype=np.uint32) // 7
    array = (row + 31 * np.arange(2000, dtype=np.uint32)[:, None]).astype(np.uint8)
    pixels = ImageTransform((2000, 2400))(Image.fromarray(array.reshape(2000, 2400, 3)))
    assert np.array_equal(pixels.permute(1, 2, 0).numpy(), array.reshape(2000, 2400, 3))


def test_an_image_in_the_memory_of_others() -> None:
    """Pillow crashes where such an image is exported to Arrow."""
    values = pa.array(np.arange(6 * 10 * 4, dtype=np.uint8))
    borrowed = Image.fromarrow(values, "RGB", (10, 6))
    wanted = values.to_numpy().reshape(6, 10, 4)[..., :3]
    assert np.array_equal(ImageTransform((6, 10))(borrowed).permute(1, 2, 0).numpy(), wanted)


def test_the_result_never_shares_memory_with_the_image() -> None:
    image = Image.new("RGB", (1, 1), RED)
    ImageTransform((1, 1))(image)[:] = 0
    assert image.getpixel((0, 0)) == RED


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
        ({"interpolation": "box"}, "interpolation: got 'box'; expected one of bilinear"),
        ({"fit": "stretch"}, "fit: got 'stretch'"),
        ({"crop_share": 0.0}, "crop_share: got 0.0"),
        ({"crop_share": 1.5}, "crop_share: got 1.5"),
    ],
)
def test_transform_refuses(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageTransform(**{"size": (8, 8), **arguments})
