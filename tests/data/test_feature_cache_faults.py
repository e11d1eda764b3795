"""The feature cache handles broken files, interruptions, full disks and bad images."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from encoded_miniature import Counting, assert_equal, direct, files, store, write_images

from vlm.data.features import cache as feature_cache
from vlm.datasets.errors import DataError
from vlm.image import ImageError


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    """13 different images and a copy of one of them."""
    return write_images(tmp_path / "images", 13)


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits each file to the features of four images."""
    each = 4 * 12 * (64 + 1) + 64 + 32
    monkeypatch.setattr(feature_cache, "SEGMENT_BYTES", 4 * each + each // 2)


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("damage", ["flipped", "cut"])
def test_a_broken_file_is_reported_and_made_again(
    damage: str, images: list[str], tmp_path: Path
) -> None:
    encoder = Counting()
    store(tmp_path / "features", images, encoder)
    broken = files(tmp_path / "features")[1]
    content = bytearray(broken.read_bytes())
    content[-5] ^= 1
    broken.write_bytes(content if damage == "flipped" else content[:-5])
    before = encoder.encoded
    with pytest.warns(UserWarning, match=rf"{broken.name}: broken .* made again"):
        found = store(tmp_path / "features", images, encoder)
    assert 1 <= encoder.encoded - before <= 4
    assert_equal(found.read(images, ["q"] * 14), direct(encoder, images))


@pytest.mark.usefixtures("small_segments")
def test_an_interruption_keeps_what_is_finished(images: list[str], tmp_path: Path) -> None:
    encoder = Counting()
    encoder.fails = 9
    with pytest.raises(KeyboardInterrupt):
        store(tmp_path / "features", images, encoder)
    assert len(files(tmp_path / "features")) == 2
    left = files(tmp_path / "features")[0].with_suffix(".safetensors.1.part")
    left.write_bytes(b"of a process that was killed")
    again = Counting()
    found = store(tmp_path / "features", images, again)
    assert again.encoded == 5
    assert not left.exists()
    assert_equal(found.read(images, ["q"] * 14), direct(again, images))


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Simulates a full disk: no file can grow beyond `size` bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("small_segments")
def test_a_disk_that_fills(images: list[str], tmp_path: Path) -> None:
    """A disk that fills up during the second file causes an error and leaves the first intact."""
    encoder = Counting()
    store(tmp_path / "features", images[:4], encoder)
    wanted = rf"could not be written \(.*{os.strerror(errno.EFBIG)}.*stay"
    with full_disk(8000), pytest.raises(DataError, match=wanted):
        store(tmp_path / "features", images, encoder)
    assert len(files(tmp_path / "features")) == 1
    assert not list(tmp_path.rglob("*.part"))
    found = store(tmp_path / "features", images, encoder)
    assert_equal(found.read(images, ["q"] * 14), direct(encoder, images))


def test_a_disk_that_is_too_small(
    images: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(DataError, match=r"13 images take 0\.1 MB, and .* has 0\.0 MB left"):
        store(tmp_path / "features", images, Counting())


def test_a_folder_that_is_a_file(images: list[str], tmp_path: Path) -> None:
    (tmp_path / "features").write_text("notes")
    with pytest.raises(DataError, match=r"data\.images\.features: .*could not be written"):
        store(tmp_path / "features", images, Counting())


@pytest.mark.parametrize("kind", ["missing", "unreadable"])
def test_a_bad_image_is_named(kind: str, images: list[str], tmp_path: Path) -> None:
    Path(images[5]).unlink()
    if kind == "unreadable":
        Path(images[5]).write_text("no image")
    with pytest.raises(ImageError, match=r"5\.png: ") as error:
        store(tmp_path / "features", images, Counting())
    assert error.value.kind == kind
