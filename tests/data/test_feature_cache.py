"""Cached features are made once, reused, and never mixed up between encoders or images."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from encoded_miniature import Counting, assert_equal, direct, files, store, write_images
from PIL import Image
from safetensors.torch import load_file

from vlm.core.features import Features
from vlm.data.features import cache as feature_cache
from vlm.data.features.frozen import encoder_digest
from vlm.data.images.sources import ImageOptions, OpenImages
from vlm.data.shards.source import Shards
from vlm.data.shards.writer import write_shards
from vlm.image import TimmEncoder


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    """13 different images and a copy of one of them."""
    return write_images(tmp_path / "images", 13)


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits each file to the features of four images."""
    each = 4 * 12 * (64 + 1) + 64 + 32
    monkeypatch.setattr(feature_cache, "SEGMENT_BYTES", 4 * each + each // 2)


def test_features_are_those_of_evaluation(images: list[str], tmp_path: Path) -> None:
    """Features equal direct evaluation in any order, and the encoder's modes are restored."""
    encoder = Counting().train()
    encoder.stages[0].eval()
    found = store(tmp_path / "features", images, encoder)
    assert encoder.training
    assert not encoder.stages[0].training
    assert encoder.stages[1].training
    asked = [images[12], images[0], images[13], images[0]]
    assert_equal(found.read(asked, ["q"] * 4), direct(encoder, asked))


def test_padding_stays_masked(tmp_path: Path, images: list[str]) -> None:
    encoder = TimmEncoder("resnet10t", image_size=96, fit="pad").eval()
    found = store(tmp_path / "features", images[:3], encoder)
    wanted = direct(encoder, images[:3])
    assert not wanted.mask.all()
    assert_equal(found.read(images[:3], ["q"] * 3), wanted)


@pytest.mark.usefixtures("small_segments")
def test_each_content_is_encoded_once(
    images: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies are encoded once, and a later start neither encodes nor reads unchanged images."""
    encoder = Counting()
    store(tmp_path / "features", images[:6], encoder)
    assert encoder.encoded == 6
    store(tmp_path / "features", images[4:], encoder)
    assert encoder.encoded == 13
    assert len(files(tmp_path / "features")) == 4
    monkeypatch.setattr(OpenImages, "content", None)
    again = Counting()
    found = store(tmp_path / "features", images, again)
    assert again.encoded == 0
    assert_equal(found.read(images, ["q"] * 14), direct(again, images))


def test_a_image_that_was_replaced(images: list[str], tmp_path: Path) -> None:
    """An image replaced by another of the same name and size is encoded again."""
    encoder = Counting()
    store(tmp_path / "features", images, encoder)
    Image.fromarray(np.full((64, 16, 3), 200, np.uint8)).save(images[3])
    found = store(tmp_path / "features", images, encoder)
    assert encoder.encoded == 14
    assert_equal(found.read([images[3]], ["q"]), direct(encoder, [images[3]]))


def test_what_makes_another_encoder() -> None:
    """The digest covers weights, statistics, configuration and preprocessing, not the mode."""
    encoder = Counting()
    digest = encoder_digest(encoder)
    assert encoder_digest(Counting().eval().requires_grad_(False)) == digest
    others = [Counting() for _ in range(4)]
    with torch.no_grad():
        next(others[0].parameters())[0, 0, 0, 0] += 1e-3
    others[1].get_buffer("stages.0.2.running_mean")[1] += 1e-3
    others[2].arguments["dropout"] = 0.1
    object.__setattr__(others[3].transform, "fit", "crop")
    assert len({digest, *map(encoder_digest, others)}) == 5


def test_features_of_other_weights_are_not_used(
    images: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = Counting()
    store(tmp_path / "features", images, encoder)
    assert "not used" not in capsys.readouterr().out
    with torch.no_grad():
        next(encoder.parameters()).mul_(1.5)
    found = store(tmp_path / "features", images, encoder)
    said = capsys.readouterr().out
    assert "has features of other weights or another preprocessing (1 encoder)" in said
    assert "Encoding 13 images once: 0.1 MB in" in said
    assert_equal(found.read(images, ["q"] * 14), direct(encoder, images))


def _fill(folder: Path, images: list[str], counts: Any) -> None:
    torch.set_num_threads(1)
    encoder = Counting()
    store(folder, images, encoder)
    counts.put(encoder.encoded)


@pytest.mark.slow
def test_two_processes_share_the_work(images: list[str], tmp_path: Path) -> None:
    """Two processes started together on one folder encode each image once between them."""
    context = multiprocessing.get_context("spawn")
    counts: Any = context.Queue()
    both = [
        context.Process(target=_fill, args=(tmp_path / "features", images, counts))
        for _ in range(2)
    ]
    for process in both:
        process.start()
    found = [counts.get(timeout=60) for _ in both]
    for process in both:
        process.join()
    assert sum(found) == 13
    rows = torch.cat([load_file(path)["digests"] for path in files(tmp_path / "features")])
    wanted = {hashlib.sha256(Path(image).read_bytes()).digest() for image in images}
    assert sorted(bytes(row.tolist()) for row in rows) == sorted(wanted)


def test_the_same_images_in_shards(images: list[str], tmp_path: Path) -> None:
    """Images in shards reuse the features of the same files, and no shard is read twice."""
    encoder = Counting()
    store(tmp_path / "features", images, encoder)
    write_shards(pa.array(images), tmp_path / "shards", 10**5)
    opened = OpenImages(ImageOptions(shards=Shards(str(tmp_path / "shards"))), None)
    found = store(tmp_path / "features", images, encoder, opened)
    assert encoder.encoded == 13
    for path in (tmp_path / "shards").glob("*.tar"):
        path.unlink()
    store(tmp_path / "features", images, encoder, opened)
    assert_equal(found.read(images, ["q"] * 14), direct(encoder, images))


def test_images_inside_a_data_file(images: list[str], tmp_path: Path) -> None:
    content = {image: Path(image).read_bytes() for image in images}
    opened = OpenImages(ImageOptions(), content.__getitem__)
    encoder = Counting()
    for _ in range(2):
        found = store(tmp_path / "features", images, encoder, opened)
    assert encoder.encoded == 13
    assert_equal(found.read(images, ["q"] * 14), direct(encoder, images))


def test_a_loader_worker_gets_little(tmp_path: Path) -> None:
    """A worker receives 16 bytes per image and no features, and no file stays open."""
    count = 300
    (path := tmp_path / "images").mkdir()
    images = [str(path / f"{number}.png") for number in range(count)]
    for number, image in enumerate(images):
        Image.new("RGB", (1, 1), (number % 256, number // 256, 0)).save(image)
    found = store(tmp_path / "features", images, Counting())
    opened = len(os.listdir("/proc/self/fd"))
    wanted = found.read(images[7:9], ["q"] * 2)
    assert len(os.listdir("/proc/self/fd")) == opened
    content = pickle.dumps(found)
    assert len(content) < 18 * count + 1000
    assert_equal(pickle.loads(content).read(images[7:9], ["q"] * 2), wanted)


def test_an_encoder_gives_its_own_features_back() -> None:
    encoder = Counting()
    encoder.positions = None
    own = Features(torch.rand(3, 64, 12), torch.ones(3, 64, dtype=torch.bool), torch.rand(3, 12))
    assert encoder(own) is own
    with pytest.raises(
        ValueError, match=r"features of shape \(3, 63, 12\); expected \(B, 64, 12\)"
    ):
        encoder(own._replace(tokens=own.tokens[:, 1:]))


def test_regions_are_features_already() -> None:
    with pytest.raises(ValueError, match=r"images\.regions and images\.features: got both"):
        ImageOptions(regions="a", features="b")
