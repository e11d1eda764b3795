"""`vlm check-data` checks the images and finds what occurs in two splits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checked_files import check, cut, only, rows_with_ids
from custom_files import write_rows
from PIL import Image

from vlm.data import VQADataModule
from vlm.data.check.check import check_data
from vlm.data.images.sources import ImageOptions
from vlm.datasets import CustomDataset
from vlm.image import load


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, Any]]:
    return rows_with_ids(tmp_path)


@pytest.mark.parametrize(
    ("content", "kind", "what"),
    [
        (b"no image", "unreadable image", "not a readable image"),
        (b"", "unreadable image", "the file is empty"),
        ("truncated", "unreadable image", "not a readable image"),
        ("large", "oversized image", "100 x 100 pixels; at most 2,000 are read"),
    ],
)
def test_images_are_read(
    content: bytes | str,
    kind: str,
    what: str,
    rows: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    photo = tmp_path / "photos" / rows[12]["image"]
    if content == "large":
        monkeypatch.setattr(load, "MAX_PIXELS", 2000)
        Image.new("RGB", (100, 100)).save(photo)
    elif content == "truncated":
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(photo)
        photo.write_bytes(photo.read_bytes()[:-2000])
    else:
        photo.write_bytes(content)
    said = only(check(tmp_path, **cut(rows)), kind)
    assert said.startswith(f"{tmp_path}/validation.jsonl, line 1, column 'image' (id 'q12'): ")
    assert what in said
    assert str(photo) in said
    paths = {name: str(tmp_path / f"{name}.jsonl") for name in ("validation", "test")}
    data = CustomDataset(str(tmp_path / "train.jsonl"), images=tmp_path / "photos", **paths)
    assert not check_data(VQADataModule(data), images=False).errors.counts


def test_the_image_of_a_row_that_is_left_out_is_read_too(
    rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    rows[13] |= {"question": " ", "image": "gone.png"}
    rows[14] |= {"question": " "}  # its image exists and is read for another row
    rows[15] |= {"question": " ", "image": ""}
    found = check(tmp_path, **cut(rows)).errors
    assert found.counts == {"empty question": 3, "missing image": 1, "no image": 1}
    (said,) = found.kept["missing image"]
    assert said.startswith(f"{tmp_path}/validation.jsonl, line 2, column 'image' (id 'q13'): ")
    assert "gone.png" in said


def test_features_of_regions_are_read_in_the_place_of_images(
    rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "features").mkdir()
    content = {"features": np.ones((3, 5), np.float32), "boxes": np.array([[0, 0, 9, 9]] * 3)}
    for row in rows:
        name = Path(row["image"]).stem
        np.savez(tmp_path / f"features/{name}.npz", **content, image_w=10, image_h=10)
        (tmp_path / "photos" / row["image"]).unlink(missing_ok=True)
    (tmp_path / "features" / f"{Path(rows[4]['image']).stem}.npz").write_bytes(b"no features")
    (tmp_path / "features" / f"{Path(rows[6]['image']).stem}.npz").unlink()
    my = write_rows(tmp_path / "my.jsonl", rows)
    found = check_data(
        VQADataModule(
            CustomDataset(str(my)), images=ImageOptions(regions=str(tmp_path / "features"))
        )
    )
    assert found.errors.counts == {"unreadable image": 1, "missing image": 1}
    assert "my.jsonl, line 7, column 'image'" in found.errors.kept["missing image"][0]
    found = check_data(
        VQADataModule(CustomDataset(str(my)), images=ImageOptions(regions=str(tmp_path / "nosuch")))
    )
    assert found.errors.counts == {"unreadable data": 1}


def test_an_image_in_two_splits(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    files = cut(rows)
    files["test"][1]["image"] = "./" + rows[4]["image"]
    said = only(check(tmp_path, **files), "image in two splits")
    assert said.startswith(f"{tmp_path}/test.jsonl, line 2, column 'image' (id 'q17'): ")
    assert f"'{tmp_path}/photos/{rows[4]['image']}' is in train too" in said
    assert f"({tmp_path}/train.jsonl, line 5, column 'image' (id 'q4'))" in said


def test_a_set_that_shares_its_images_is_only_warned(
    rows: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CustomDataset, "shared_images", True)
    files = cut(rows)
    files["test"][1]["image"] = rows[4]["image"]
    only(check(tmp_path, **files), "image in two splits", warning=True)


def test_a_group_in_two_splits(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    rows[0]["group"], rows[1]["group"], rows[13]["group"] = "patient 1", "patient 2", "patient 2"
    said = only(check(tmp_path, **cut(rows)), "group in two splits")
    assert "validation.jsonl, line 2, column 'group'" in said
    assert "'patient 2' is in train too" in said
    # A split made here does not divide a group.
    for number, row in enumerate(rows):
        row["group"] = f"patient {number // 4}"
    found = check(tmp_path, train=rows)
    assert not found.errors.counts
    assert sum(summary.questions for summary in found.splits.values()) == len(rows)
