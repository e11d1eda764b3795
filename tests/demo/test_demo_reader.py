"""Every kind of bad file gets a message, and is refused before it uses many resources."""

from __future__ import annotations

import tracemalloc

import pytest
from demo_server import bomb, file_of
from PIL import Image

from vlm.image.load import ImageError
from vlm.serve import reader
from vlm.serve.reader import read_upload

RED = Image.new("RGB", (13, 7), (255, 0, 0))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"%PDF-1.7 and more", "a PDF document"),
        (b"<html>", "a web page"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (b"some words", "not an image"),
        (file_of(Image.effect_noise((40, 40), 99))[:300], "damaged"),
        (b"x" * (reader.MAX_BYTES + 1), "10.0 MB"),
        (file_of(Image.new("1", (8_000, 6_000))), "8,000 x 6,000 pixels"),
    ],
    ids=["nothing", "pdf", "html", "svg", "text", "cut", "bytes", "pixels"],
)
def test_a_bad_file_gets_a_sentence(content: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        read_upload(content)


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    content = bomb()
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match="at most 40,000,000 are read"):
            read_upload(content)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_animations_give_their_first_frame() -> None:
    blue = Image.new("RGB", RED.size, (0, 0, 255))
    content = file_of(RED, "GIF", save_all=True, append_images=[blue, blue.rotate(90)])
    read = read_upload(content)
    assert read.image.getpixel((3, 3)) == (255, 0, 0)
    assert "first of its" in read.notes[0]


def test_printing_colours_are_converted() -> None:
    read = read_upload(file_of(RED.convert("CMYK"), "JPEG", quality=95))
    red, green, blue = read.image.getpixel((3, 3))
    assert red > 200 > 60 > max(green, blue)
    assert "CMYK" in read.notes[0]


def test_an_ordinary_image_needs_no_note() -> None:
    read = read_upload(file_of(RED))
    assert read.image.size == (13, 7)
    assert read.notes == ()
