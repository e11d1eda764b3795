"""A custom data file is read once and memory-mapped from then on, like the official sets."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from custom_files import write_photos, write_rows

from vlm.data import VQADataModule
from vlm.datasets import CustomDataset
from vlm.datasets.errors import DataError, Problems, collecting
from vlm.datasets.readers.image_files import EmbeddedImages


@pytest.fixture
def my(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLM_CACHE", str(tmp_path / "cache"))
    return write_rows(tmp_path / "my.jsonl", write_photos(tmp_path, images=6))


def forbid_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object) -> None:
        raise AssertionError("the file was read again")

    monkeypatch.setattr("vlm.datasets.custom.read_records", read)


def kept(folder: Path) -> list[Path]:
    return list((folder / "cache").rglob("*.arrow"))


def test_a_file_is_read_once(my: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = [CustomDataset(str(my)).table(split) for split in ("train", "validation", "test")]
    assert len(kept(my.parent)) == 1, "the file, and not its parts"
    forbid_reading(monkeypatch)
    again = CustomDataset(str(my))
    for split, table in zip(("train", "validation", "test"), first, strict=True):
        assert again.table(split).equals(table)
    # The cache does not depend on how the data are split.
    more = CustomDataset(str(my), validation_share=0.4)
    assert len(more.table("test")) > len(first[2])


def test_a_changed_file_or_mapping_is_read_anew(my: Path) -> None:
    count = len(CustomDataset(str(my), test=str(my)).table("test"))
    my.write_text(my.read_text() + my.read_text().splitlines()[0].replace("?", "!") + "\n")
    assert len(CustomDataset(str(my), test=str(my)).table("test")) == count + 1
    with pytest.raises(DataError, match="colour"):
        CustomDataset(str(my), test=str(my), columns={"answer": "colour"}).table("train")


def test_a_folder_that_is_gone_is_still_said(my: Path) -> None:
    photos = my.parent / "photos"
    VQADataModule(CustomDataset(str(my), images=photos)).open_images  # noqa: B018  reading it opens the images
    photos.rename(my.parent / "moved")
    with pytest.raises(DataError, match=r"images: .*photos: there is no such folder"):
        VQADataModule(CustomDataset(str(my), images=photos)).open_images  # noqa: B018  reading it opens the images


def test_a_check_reads_the_file_itself(my: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CustomDataset(str(my)).table("train")
    forbid_reading(monkeypatch)
    with pytest.raises(AssertionError, match="read again"), collecting(Problems(3)):
        CustomDataset(str(my)).table("train")


def test_images_inside_a_file_go_with_the_process_and_so_does_the_table(
    my: Path, tmp_path: Path
) -> None:
    content = [path.read_bytes() for path in sorted((tmp_path / "photos").iterdir())]
    count = len(content)
    columns = {"image": content, "question": ["what?"] * count, "answer": ["red"] * count}
    pq.write_table(pa.table(columns), tmp_path / "my.parquet")
    for _ in range(2):
        data = CustomDataset(str(tmp_path / "my.parquet"))
        for image in data.table("train")["image"].to_pylist():
            assert data.image_source(image) in content
    assert not kept(tmp_path)


def test_a_worker_s_copy_of_images_holds_no_digests() -> None:
    pictures = EmbeddedImages()
    keys = [pictures.add(os.urandom(50), "my.parquet") for _ in range(1000)]
    content = pickle.dumps(pictures)
    assert len(content) < 10 * len(keys), "more than where each image ends"
    copy = pickle.loads(content)
    assert [copy(key) for key in keys] == [pictures(key) for key in keys]
