"""JPEGs decoded at a fraction of their size: which fraction, and what stays as it is."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlm.data.images.sources import ImageOptions, OpenImages
from vlm.image import ImageTransform, load_image


def photo(width: int, height: int, format: str = "JPEG", **options: object) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (height // 8, width // 8, 3), np.uint8)
    made = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
    content = BytesIO()
    made.save(content, format, **options)
    return content.getvalue()


@pytest.mark.parametrize(
    ("enough", "expected"),
    [((640, 480), (640, 480)), ((321, 1), (640, 480)), ((320, 240), (320, 240)),
     ((150, 100), (160, 120)), ((1, 1), (80, 60)), ((320, 241), (640, 480))],
)  # fmt: skip
def test_the_smallest_that_is_enough(enough: tuple[int, int], expected: tuple[int, int]) -> None:
    assert load_image(photo(640, 480), enough=enough).size == expected


def test_other_formats_stay_whole() -> None:
    assert load_image(photo(640, 480, "PNG"), enough=(64, 64)).size == (640, 480)


def test_turned_photos_are_large_enough() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    transform = ImageTransform((100, 300))
    loaded = load_image(photo(800, 400, exif=exif.tobytes()), enough=transform.enough)
    assert loaded.size == (400, 800)  # half the size would be 200 wide


@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
def test_pixels_differ_little(fit: str, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(photo(640, 480))
    transform = ImageTransform((120, 120), fit=fit, crop_share=0.9)  # type: ignore[arg-type]
    fast = OpenImages(ImageOptions(fast_jpeg=True), None).store(transform)
    whole = OpenImages(ImageOptions(), None).store(transform)
    read = [store.read([str(path)], ["1"]).float() for store in (fast, whole)]  # type: ignore[union-attr]
    difference = (read[0] - read[1]).abs().mean().item()
    assert 0 < difference < 3


def test_not_with_features() -> None:
    with pytest.raises(ValueError, match=r"images.fast_jpeg: got true with images.regions or ima"):
        ImageOptions(fast_jpeg=True, features="cache")
