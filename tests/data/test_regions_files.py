"""Region features are found by image path in folders and TSVs, and bad ones are reported."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from region_miniature import DIM, detect, tsv_line, write_npz

from vlm.data.images.region_table import RegionTable
from vlm.data.images.regions import RegionFiles, RegionStore
from vlm.datasets.errors import DataError
from vlm.image import ImageError
from vlm.image.regions import RegionTransform


@pytest.mark.parametrize(
    "place",
    [
        "COCO_val2014_000000000042.npz",
        "COCO_val2014_000000000042.jpg.npz",
        "val2014/COCO_val2014_000000000042.npz",
        "photos/val2014/COCO_val2014_000000000042.jpg.npz",
        "42.npz",
    ],
)
@pytest.mark.parametrize("folder", ["photos", "/data/photos", "../photos"])
def test_a_folder_has_a_image_under_any_of_its_names(
    tmp_path: Path, place: str, folder: str
) -> None:
    features, _ = detect(1)
    write_npz(tmp_path / place, *detect(1))
    write_npz(tmp_path / "COCO_val2014_000000000420.npz", *detect(2))
    files = RegionFiles(str(tmp_path))
    found = files(f"{folder}/val2014/COCO_val2014_000000000042.jpg")
    np.testing.assert_array_equal(found.features, features)
    assert found.source == str(tmp_path / place)


def test_the_place_that_names_most_folders_wins(tmp_path: Path) -> None:
    for number, place in enumerate(("0.npz", "images/0.npz", "test/images/0.npz")):
        write_npz(tmp_path / place, *detect(number, count=number + 2))
    files = RegionFiles(tmp_path)
    counts = [len(files(image).boxes) for image in ("0.png", "train/images/0.png")]
    assert [*counts, len(files("a/test/images/0.png").boxes)] == [2, 3, 4]


def table(path: Path, lines: list[bytes]) -> Path:
    path.write_bytes(b"".join(lines))
    return path


def test_a_tsv_gives_each_image_its_own_line(tmp_path: Path) -> None:
    ids: list[int | str] = [300104, 9, "n12", 10, "COCO_val2014_000000000077"]
    path = table(tmp_path / "a.tsv", [tsv_line(image, *detect(n)) for n, image in enumerate(ids)])
    for again in range(2):  # from its index the second time
        files = RegionFiles(str(path))
        for number, image in enumerate(
            ["x/COCO_train2014_000000300104.jpg", "9.jpg", "n12.jpg", "a_10.png"]
        ):
            features, boxes = detect(number)
            found = files(image)
            np.testing.assert_array_equal(found.features, features)
            np.testing.assert_allclose(found.boxes, boxes / (64, 48, 64, 48), rtol=1e-6)
            assert f"a.tsv, line {number + 1} (image {ids[number]})" in found.source
        assert len(files("COCO_val2014_000000000077.jpg").boxes) == len(detect(4)[1])
        assert (tmp_path / "a.tsv.index.npz").is_file(), again
    assert sorted(os.listdir(tmp_path)) == ["a.tsv", "a.tsv.index.npz"]


def test_the_index_is_read_again_and_made_anew_when_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = table(tmp_path / "a.tsv", [tsv_line(n, *detect(n)) for n in range(3)])
    RegionTable(path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", None)  # fails if the file is read again
        assert RegionTable(path).find(["2"]) is not None
    table(path, [tsv_line(n, *detect(n)) for n in range(4)])
    assert RegionTable(path).find(["3"]) is not None
    (tmp_path / "a.tsv.index.npz").write_bytes(b"PK\x03\x04 cut short")
    assert RegionTable(path).find(["3"]) is not None


def test_a_folder_that_cannot_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError

    path = table(tmp_path / "a.tsv", [tsv_line(n, *detect(n)) for n in range(3)])
    monkeypatch.setattr("vlm.data.images.region_table.whole_file", refuse)
    assert len(RegionTable(path).read(1).boxes)
    assert os.listdir(tmp_path) == ["a.tsv"]


GOOD = [tsv_line(n, *detect(n)) for n in range(2)]
LAST = tsv_line(2, *detect(2, count=4))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (LAST[: len(LAST) // 2], r"features: got [\d,]+ letters of base64"),
        (LAST[:30], "got 5 fields between tabs; expected 6: image_id, image_w"),
        (LAST[:9], r"got \d fields? between tabs; expected 6"),
        (tsv_line(2, *detect(2), num_boxes=0), "num_boxes: got 0"),
        (tsv_line(2, *detect(2), num_boxes=7), "boxes: expected 7 x 4 numbers"),
        (tsv_line(2, *detect(2), image_w="wide"), "expected an id and the whole numbers image_w"),
        (tsv_line(2, detect(2)[0][:, :-1], detect(2)[1]), "features 12 wide; expected 13 as in"),
        (b"\n", "got 1 field between"),
    ],
)
def test_a_tsv_that_is_cut_short_or_no_such_tsv(tmp_path: Path, line: bytes, message: str) -> None:
    path = table(tmp_path / "a.tsv", [*GOOD, line])
    byte = sum(map(len, GOOD))
    with pytest.raises(DataError, match=rf"a\.tsv, line 3, byte {byte}: .*{message}"):
        RegionFiles(str(path))
    assert not (tmp_path / "a.tsv.index.npz").exists()


def test_numbers_of_a_tsv_that_are_none(tmp_path: Path) -> None:
    features, boxes = detect(1)
    features[1, 2] = np.nan
    good = tsv_line(5, *detect(2))
    letters = good.replace(good.split(b"\t")[4][:4], b"!!!!", 1)
    path = table(tmp_path / "a.tsv", [*GOOD, tsv_line(7, features, boxes), letters])
    files = RegionFiles(str(path))
    with pytest.raises(ImageError, match=r"a\.tsv, line 3 \(image 7\): features: NaN"):
        files("7.jpg")
    with pytest.raises(ImageError, match=r"a\.tsv, line 4 \(image 5\): .*Get the file again"):
        files("5.jpg")


def test_a_repeated_id_is_said_and_the_first_counts(tmp_path: Path) -> None:
    path = table(tmp_path / "a.tsv", [tsv_line(n % 2, *detect(n, count=n + 2)) for n in range(3)])
    with pytest.warns(UserWarning, match=r"left out 1 line with .*first line 3, image 0"):
        files = RegionFiles(str(path))
    assert len(files("0.jpg").boxes) == 2


def test_sources_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty.tsv").touch()
    one = write_npz(tmp_path / "a.npz", *detect(1))
    for given, message in {
        str(tmp_path / "no"): "there is no such folder or file",
        str(one): "expected the folder that contains it",
        str(tmp_path / "empty.tsv"): "the file is empty",
    }.items():
        with pytest.raises(DataError, match=message):
            RegionFiles(given)
    with pytest.raises(DataError, match="an empty list"):
        RegionFiles([])


def test_the_first_of_several_sources_that_has_a_image(tmp_path: Path) -> None:
    write_npz(tmp_path / "one/1.npz", *detect(1, count=2))
    path = table(tmp_path / "a.tsv", [tsv_line(n, *detect(n, count=5)) for n in (1, 2)])
    files = RegionFiles([tmp_path / "one", path])
    assert [len(files(f"{n}.jpg").boxes) for n in (1, 2)] == [2, 5]
    with pytest.raises(ImageError, match=r"x/3\.jpg: no features in .*one, .*a\.tsv"):
        files("x/3.jpg")


def test_images_without_features_are_counted(tmp_path: Path) -> None:
    write_npz(tmp_path / "1.npz", *detect(1))
    files = RegionFiles(tmp_path)
    files.check(["1.jpg"])
    with pytest.raises(DataError, match=r"no features for 2 of 3 images.*2\.jpg: no features"):
        files.check(["1.jpg", "2.jpg", "3.jpg"])


def test_two_images_never_share_one_file(tmp_path: Path) -> None:
    """Splits that each number images from 0 need separate folders of features."""
    write_npz(tmp_path / "0.npz", *detect(1))
    files = RegionFiles(tmp_path)
    files.check(["train/images/0.png"])
    files.check(["train/images/0.png"])
    with pytest.raises(DataError, match=r"test/images/0\.png: its features are also those of an"):
        files.check(["test/images/0.png"])
    write_npz(tmp_path / "test/images/0.npz", *detect(2))
    files.check(["test/images/0.png"])


@pytest.mark.parametrize("cached", [False, True])
def test_a_store_pads_and_names_the_question(tmp_path: Path, cached: bool) -> None:
    features, boxes = detect(1, count=2)
    write_npz(tmp_path / "1.npz", features, boxes)
    write_npz(tmp_path / "2.npz", *detect(2, count=4))
    store = RegionStore(RegionTransform(DIM), RegionFiles(tmp_path))
    if cached:
        store.cache(["1.jpg", "2.jpg", "1.jpg"], ["a", "b", "c"], "train")
        (tmp_path / "1.npz").unlink()
    batch = store.read(["1.jpg", "2.jpg"], ["a", "b"])
    assert batch.mask.tolist() == [[True, True, False, False], [True] * 4]
    np.testing.assert_array_equal(batch.tokens[0, :2], features)
    assert batch.boxes is not None
    np.testing.assert_allclose(batch.boxes[0, :2], boxes / (64, 48, 64, 48), rtol=1e-6)
    assert store.read([], []).tokens.shape == (0, 1, DIM)
    with pytest.raises(ImageError, match=r"Question 'q7': 3\.jpg: no features"):
        store.read(["2.jpg", "3.jpg"], ["b", "q7"])
    wide = RegionStore(RegionTransform(17), RegionFiles(tmp_path))
    with pytest.raises(ImageError, match=r"Question 'b': .*2\.npz: features 13 wide; expected 17"):
        wide.read(["2.jpg"], ["b"])
