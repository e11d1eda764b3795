"""Grey images above 8 bits are scaled by their white value, and a wrong one is detected."""

from __future__ import annotations

import struct
import warnings
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vlm.core.part import build
from vlm.data.images.store import ImageStore
from vlm.image import (
    ConvNet,
    ImageError,
    ImageTransform,
    TimmEncoder,
    TorchvisionEncoder,
    load_image,
)
from vlm.serve.reader import read_upload

TWELVE = np.array([[0, 1000, 2048, 4095]] * 2, np.uint16)


def saved(array: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def values(source: Any, level: Any = None) -> list[int]:
    return np.asarray(load_image(source, level))[0, :, 0].tolist()


@pytest.mark.parametrize("level", [4095, 4095.0, "max"])
@pytest.mark.parametrize(
    "source", [TWELVE, saved(TWELVE), saved(TWELVE, "TIFF"), TWELVE.astype(float)]
)
def test_the_white_level_is_white(source: Any, level: Any) -> None:
    assert values(source, level) == pytest.approx([0, 62, 127, 255], abs=1)


def test_above_white_is_white() -> None:
    assert values(TWELVE, 1000) == [0, 255, 255, 255]
    assert values(np.zeros((2, 4), np.uint16), "max") == [0] * 4
    with pytest.raises(ImageError, match="whole numbers from -5 to 7"):
        load_image(Image.fromarray(np.array([[-5, 7]], np.int32)), "max")
    with pytest.raises(ImageError, match="floats from 0 to inf"):
        load_image(np.array([[0, np.inf]]), "max")


@pytest.mark.parametrize("source", [TWELVE, saved(TWELVE), saved(TWELVE, "TIFF")])
def test_a_narrow_range_is_noticed(source: Any) -> None:
    with pytest.warns(UserWarning, match=r"lowest quarter of its range.*white_level"):
        assert max(values(source)) == 15
    for whole in (TWELVE * 16, TWELVE * 0, (TWELVE // 16).astype(np.uint8)):
        values(whole)  # and without a warning
    values(source, 4095)


def test_the_warning_is_shown_once() -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for _ in range(3):
            load_image(TWELVE)
    assert len(said) == 1


def colour_png(low: int) -> bytes:
    """Make a PNG with three 16-bit channels, which Pillow cannot write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    pixels = b"".join(b"\0" + struct.pack(">6H", *[low] * 6) for _ in range(2))
    head = struct.pack(">2I5B", 2, 2, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_colours_of_16_bits() -> None:
    assert values(colour_png(65_535)) == [255, 255]
    with pytest.warns(UserWarning, match="lowest quarter"):
        assert values(colour_png(4_095)) == [15, 15]
    assert "dark" in read_upload(colour_png(4_095)).notes[0]


def test_a_tiff_that_says_what_is_white() -> None:
    """A TIFF with 12-bit values, and one in which 0 is white."""
    twelve = b"\0\x0f\xff\x80\0\0"  # 0, 4095, 2048, 0
    tags = {256: 4, 257: 1, 258: 12, 259: 1, 262: 1, 273: 10 + 12 * 9 + 4, 277: 1, 278: 1, 279: 6}
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = b"II*\0" + struct.pack("<IH", 8, 9)
    assert values(head + table + bytes(4) + twelve) == [0, 255, 127, 0]
    inverted = saved(np.array([[0, 65_535, 257]] * 2, np.uint16), "TIFF")
    place = inverted.index(struct.pack("<HHI", 262, 3, 1)) + 8
    assert values(inverted[:place] + b"\0\0" + inverted[place + 2 :]) == [255, 0, 254]


@pytest.mark.parametrize("level", [0, -1, "most", [], float("nan"), 1e300])
def test_a_level_that_is_none(level: Any) -> None:
    with pytest.raises(ValueError, match=r"white_level: got .*; expected a value above 0"):
        ImageTransform((4, 4), white_level=level)


@pytest.mark.parametrize(
    "encoder",
    [
        lambda: ConvNet(16, white_level=4095),
        lambda: TimmEncoder("resnet10t", image_size=32, white_level=4095),
        lambda: TorchvisionEncoder("resnet18", image_size=32, white_level="max"),
    ],
)
def test_a_rebuilt_encoder_reads_as_it_was_trained(encoder: Any, tmp_path: Any) -> None:
    made = encoder()
    again: Any = build(made.config)
    (tmp_path / "a.png").write_bytes(saved(TWELVE))
    pixels = again.transform.open(tmp_path / "a.png")
    assert pixels.max() > 150
    read = ImageStore(made.transform).read([str(tmp_path / "a.png")], ["1"])
    assert torch.equal(read[0], pixels)
