"""Region features instead of images: accepted files, padding, and complete models."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contract.test_parts import public
from torch.testing import assert_close

import vlm.fusion
from vlm.core.batch import Batch
from vlm.core.features import Features
from vlm.fusion import BAN, MCAN, Fusion, GlimpseAttention, MuRel, Pooled, Product
from vlm.heads import Classification
from vlm.image import ConvNet, ImageError, RegionFeatures
from vlm.image.detections import Regions, checked, read_npz
from vlm.model import VQAModel
from vlm.text import BagOfWords

DIM = 13
BOXES = np.array([[0, 0, 32, 48], [16, 12, 64, 36]], np.float32)
FEATURES = np.arange(2 * DIM, dtype=np.float32).reshape(2, DIM)


def write(path: Path, **changes: Any) -> Path:
    content = {"x": FEATURES, "bbox": BOXES, "image_w": 64, "image_h": 48} | changes
    np.savez(path, **{name: value for name, value in content.items() if value is not None})
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"x": FEATURES.T},  # mcan-vqa and OpenVQA
        {"x": FEATURES.astype(np.float16)},
        {"x": None, "bbox": None, "features": FEATURES, "boxes": BOXES},
        {"info": np.array({"a": 1}, dtype=object)},
        {"image_w": np.array([64]), "image_h": 48.0},
    ],
    ids=["as written", "transposed", "half", "other names", "pickled info", "arrays"],
)
def test_a_file_gives_features_and_boxes_in_shares(tmp_path: Path, changes: dict) -> None:
    regions = read_npz(write(tmp_path / "a.npz", **changes))
    np.testing.assert_array_equal(regions.features, FEATURES)
    assert regions.features.dtype == regions.boxes.dtype == np.float32
    np.testing.assert_allclose(regions.boxes, [[0, 0, 0.5, 1], [0.25, 0.25, 1, 0.75]])


def test_a_box_that_reaches_out_by_rounding_is_cut(tmp_path: Path) -> None:
    boxes = np.array([[-0.5, 0, 64.5, 48], [0, 0, 1, 1]], np.float32)
    regions = read_npz(write(tmp_path / "a.npz", bbox=boxes))
    assert regions.boxes.min() == 0
    assert regions.boxes.max() == 1


NAN = FEATURES.copy()
NAN[1, 3] = np.nan


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": NAN}, r"features: NaN or infinite in 1 of the 2 regions \(first in number 1"),
        ({"bbox": BOXES - np.inf}, "boxes: NaN or infinite"),
        ({"x": FEATURES[:1]}, r"features of shape \(1, 13\) and boxes of shape \(2, 4\)"),
        ({"x": FEATURES[:0], "bbox": BOXES[:0]}, "no region in it"),
        ({"x": FEATURES[0]}, r"features of shape \(13,\)"),
        ({"bbox": BOXES[:, [1, 0, 3, 2]] * 2}, r"box \d .* in an image of 64 x 48"),
        ({"bbox": BOXES[:, [2, 1, 0, 3]]}, "expected x0, y0, x1, y1 in pixels inside it"),
        ({"bbox": BOXES / (64, 48, 64, 48)}, "no box reaches beyond 1"),
        ({"bbox": None}, "has 'x', 'image_w', 'image_h'; expected 'bbox' or 'boxes'"),
        ({"image_h": None}, "expected 'image_h'"),
        ({"image_h": 0}, "an image of 64 x 0"),
        ({"image_w": [64, 64]}, "a number each"),
        ({"x": np.array([["a"] * DIM] * 2)}, "'x' holds <U1; expected numbers"),
        ({"x": FEATURES.astype(object)}, "not a readable .npz of plain arrays"),
    ],
)
def test_a_bad_file_is_named_with_the_reason(tmp_path: Path, changes: dict, message: str) -> None:
    path = write(tmp_path / "a.npz", **changes)
    with pytest.raises(ImageError, match=message) as caught:
        read_npz(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("keep", [0, 7, 200, -30])
def test_a_file_that_was_cut_short(tmp_path: Path, keep: int) -> None:
    path = write(tmp_path / "a.npz")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ImageError, match=r"a\.npz: not a readable \.npz"):
        read_npz(path)


def test_a_missing_file_and_a_plain_array(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="there is no such file") as caught:
        read_npz(tmp_path / "a.npz")
    assert caught.value.kind == "missing"
    with (tmp_path / "b.npz").open("wb") as file:
        np.save(file, FEATURES)
    with pytest.raises(ImageError, match="this is a single array"):
        read_npz(tmp_path / "b.npz")


def picture(count: int, seed: int, encoder: RegionFeatures) -> Features:
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(0, 1, (count, 2, 2)) * (64, 48), axis=1)
    features = rng.normal(size=(count, encoder.dim))
    return encoder.transform(checked(features, corners.reshape(count, 4), 64, 48, f"{seed}"))


def test_a_batch_is_padded_to_the_image_with_the_most_regions() -> None:
    encoder = RegionFeatures(DIM)
    one, two = picture(3, 0, encoder), picture(5, 1, encoder)
    batch = encoder.transform.stack([one, two])
    assert batch.tokens.shape == (2, 5, DIM)
    assert batch.mask.sum(1).tolist() == [3, 5]
    assert batch.boxes is not None
    assert not batch.tokens[0, 3:].any()
    assert not batch.boxes[0, 3:].any()
    out = encoder(batch)
    assert_close(out.tokens[0, :3], one.tokens[0])
    assert_close(out.pooled[0], one.tokens[0].mean(0))
    assert_close(out.pooled[1], two.tokens[0].mean(0))
    empty = encoder.transform.stack([])
    assert encoder(empty).tokens.shape[::2] == (0, DIM)


def test_features_of_another_width_are_refused() -> None:
    regions = Regions(FEATURES, BOXES / 64, "a.npz")
    with pytest.raises(ImageError, match=r"a\.npz: features 13 wide; expected 2048\. Set model\."):
        RegionFeatures().transform(regions)


# The published models for regions, and every other fusion with its defaults.
FUSIONS: dict[str, Any] = {
    "Pooled": partial(Pooled, merge=partial(Product, out_dim=19)),
    "GlimpseAttention": partial(GlimpseAttention, merge=partial(Product, out_dim=19)),
    "BAN": partial(BAN, out_dim=19),
    "MCAN": partial(MCAN, out_dim=19, dim=12),
    "MuRel": partial(MuRel, out_dim=19),
}
FUSIONS |= {c.__name__: c for c in public(vlm.fusion, Fusion) if c.__name__ not in FUSIONS}
FUSIONS.pop("PixelShuffle")  # joins the cells of a grid, and regions have none
QUESTIONS = ["what colour is the circle", "is it", "what", "circle the"]
INDEX = [2, 0, 1, 2]


def build(fusion: str) -> VQAModel:
    encoder, words = RegionFeatures(DIM), BagOfWords(["what", "colour", "is", "the", "circle"])
    fused = FUSIONS[fusion](encoder.dim, words.dim)
    return VQAModel(encoder, words, fused, Classification(fused.out_dim, ["yes", "no", "red"]))


def make_batch(model: VQAModel, index: list[int], questions: list[str]) -> Batch:
    encoder: Any = model.image_encoder
    pictures = [picture(count, count, encoder) for count in (4, 7, 1)]
    unique = sorted(set(index))
    images = encoder.transform.stack([pictures[i] for i in unique])
    return model.processor.batch(images, [unique.index(i) for i in index], questions)


@pytest.mark.parametrize("fusion", FUSIONS)
@torch.no_grad()
def test_padding_changes_no_answer(fusion: str) -> None:
    model = build(fusion).eval()
    batch = make_batch(model, INDEX, QUESTIONS)
    together = model(batch)
    assert together.isfinite().all()
    for row, (index, question) in enumerate(zip(INDEX, QUESTIONS, strict=True)):
        alone = model(make_batch(model, [index], [question]))
        assert_close(alone[0], together[row], rtol=1e-5, atol=1e-5)
    regions: Any = batch.images
    junk = regions._replace(
        tokens=regions.tokens.where(regions.mask[..., None], torch.nan),
        boxes=regions.boxes.where(regions.mask[..., None], torch.nan),
    )
    assert_close(model(batch._replace(images=junk)), together, rtol=1e-5, atol=1e-5)
    wider = Features(
        torch.cat((regions.tokens, torch.ones(3, 5, DIM)), 1),
        torch.cat((regions.mask, torch.zeros(3, 5, dtype=torch.bool)), 1),
        regions.pooled,
        torch.cat((regions.boxes, torch.ones(3, 5, 4)), 1),
    )
    assert_close(model(batch._replace(images=wider)), together, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_murel_reads_the_boxes_and_ban_does_not() -> None:
    for fusion, reads in (("MuRel", True), ("BAN", False)):
        model = build(fusion).eval()
        batch = make_batch(model, INDEX, QUESTIONS)
        regions: Any = batch.images
        moved = batch._replace(images=regions._replace(boxes=regions.boxes * 0.5))
        assert model(batch).equal(model(moved)) is not reads


def test_a_model_of_regions_refuses_images_and_says_what_it_wants() -> None:
    transform = RegionFeatures(DIM).transform
    for given in ("photo.jpg", Path("photo.png"), torch.zeros(3, 5, 5), b"abc"):
        with pytest.raises(ImageError, match=r"reads region features.* not images.*\.npz"):
            transform.open(given)
    model = build("BAN")
    batch = make_batch(model, INDEX, QUESTIONS)
    with pytest.raises(ValueError, match=r"images: .*expected"):
        model(batch._replace(images=torch.zeros(3, 3, 64, 64, dtype=torch.uint8)))
    with pytest.raises(ValueError, match=r"images: got .*Use the encoder's own"):
        ConvNet()(batch.images)
