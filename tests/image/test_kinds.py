"""The error for an unreadable file names the file's type and says what to do."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image, ImageFile

from vlm.image import ImageError, load_image
from vlm.serve.reader import read_upload

BOX = b"\0\0\0\x18ftyp"
FILES = {
    "a HEIC image": BOX + b"heic\0\0\0\0mif1heic",
    "an AVIF image that is damaged": BOX + b"avif\0\0\0\0mif1avif",
    "a JPEG XL image": b"\xff\x0a\xfa\x7f",
    "a camera's raw": b"II*\0\x10\0\0\0CR\2\0\0\0\0\0",
    "a video": BOX + b"isom\0\0\2\0",
    "a PDF document": b"%PDF-1.7\n",
    "a PostScript document": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "a Photoshop document": b"8BPS\0\1",
    "an OpenEXR image": b"v/1\1\2\0\0\0",
    "a DICOM file": bytes(128) + b"DICM",
    "a NIfTI volume": bytes(344) + b"n+1\0",
    "an icon file": b"\0\0\1\0\1\0",
    "a web page": b"\n<!DOCTYPE html><html>404</html>",
    "an SVG drawing": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
    "a NumPy array": b"\x93NUMPY\1\0",
    "an archive": b"PK\3\4",
    "a damaged PNG file": b"\x89PNG\r\n\x1a\n" + bytes(30),
    "a damaged JPEG file": b"\xff\xd8\xff\xe0" + bytes(30),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_not_read_is_named(kind: str, tmp_path: Path) -> None:
    (tmp_path / "7.jpg").write_bytes(FILES[kind])
    with pytest.raises(ImageError, match=rf"7.jpg: not a readable image.*{kind}") as caught:
        load_image(tmp_path / "7.jpg")
    assert str(caught.value).endswith(".")


def test_a_damaged_image_and_another_file_are_told_apart_in_the_demo() -> None:
    for kind, content in FILES.items():
        with pytest.raises(ImageError, match="damaged" if "damaged" in kind else kind):
            read_upload(content)


def test_the_thumbnail_of_a_raw_photo_is_not_the_photo(tmp_path: Path) -> None:
    """NEF and DNG are TIFF files that begin with a thumbnail."""
    path = tmp_path / "a.nef"
    Image.new("RGB", (16, 12)).save(path, "TIFF", tiffinfo={254: 1})
    with pytest.raises(ImageError, match=r"a.nef: this is a camera's raw file"):
        load_image(path)


class Plugged(ImageFile.ImageFile):
    """A 2 x 2 image in a format that a plug-in adds to Pillow."""

    format = "PLUGGED"

    def _open(self) -> None:
        assert self.fp is not None
        if self.fp.read(12)[4:] != b"ftypheic":
            raise SyntaxError("another format")
        self._mode, self._size = "RGB", (2, 2)
        self.tile = [ImageFile._Tile("raw", (0, 0, 2, 2), 12, ("RGB", 0, 1))]


HEIC = BOX + b"heic" + np.arange(12, dtype=np.uint8).tobytes()


def test_an_installed_plug_in_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImageError, match="install pillow-heif"):
        load_image(HEIC)
    module = ModuleType("pillow_heif")
    module.__spec__ = Image.__spec__
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    module.register_heif_opener = lambda: Image.register_open("PLUGGED", Plugged)  # type: ignore[attr-defined]  of the package
    monkeypatch.setitem(sys.modules, "pillow_heif", module)
    assert np.asarray(load_image(HEIC)).ravel().tolist() == list(range(12))
    with pytest.raises(ImageError, match="a HEIC image"):
        read_upload(HEIC)  # no plug-in reads an untrusted file


def test_a_text_file_gets_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "7.jpg").write_text("no image at all")
    with pytest.raises(ImageError, match=r"7.jpg: not a readable image .*save it as JPEG or PNG"):
        load_image(tmp_path / "7.jpg")
