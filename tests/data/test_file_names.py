"""Images are found by names that differ from the file's in Unicode form, case or slashes."""

from __future__ import annotations

from pathlib import Path

import pytest
from checked_files import check
from custom_files import write_rows
from PIL import Image

from vlm.datasets import CustomDataset
from vlm.datasets.readers.file_names import FileNames


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path, format="PNG")
    return path


@pytest.mark.parametrize(
    ("there", "given"),
    [
        ("a.jpg", "a.jpg"),
        ("a.jpg", "a.JPG"),
        ("A.JPG", "a.jpg"),
        ("caf\u00e9.png", "cafe\u0301.png"),
        ("cafe\u0301/a.png", "caf\u00e9/a.png"),  # also in a folder's name
        ("photos/a.png", "photos\\a.png"),
        ("Photos/2020/a.PNG", "photos\\2020\\a.png"),
        ("a\\b.png", "a\\b.png"),  # the backslash is part of the name
    ],
)
def test_the_file_that_is_meant_is_found(tmp_path: Path, there: str, given: str) -> None:
    path = image(tmp_path / there)
    assert FileNames().find(str(tmp_path / given)) == str(path)


def test_an_exact_name_goes_before_others(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.JPG"):
        image(tmp_path / name)
    assert FileNames().find(str(tmp_path / "a.JPG")) == str(tmp_path / "a.JPG")
    with pytest.raises(ValueError, match=r"'a.JPG' and 'a.jpg'; expected the exact name"):
        FileNames().find(str(tmp_path / "A.jpg"))


@pytest.mark.parametrize("given", ["b.jpg", "no/such/a.jpg", "a.jpg/x", "C:\\photos\\a.jpg"])
def test_what_is_not_there_keeps_its_name(tmp_path: Path, given: str) -> None:
    image(tmp_path / "a.jpg")
    assert FileNames().find(str(tmp_path / given)) == str(tmp_path / given)


def test_one_file_is_one_image_however_it_is_written(tmp_path: Path) -> None:
    """All spellings of a file name lead to the same image."""
    image(tmp_path / "photos/cafe\u0301.JPG")
    names = ("caf\u00e9.JPG", "cafe\u0301.jpg", "./Cafe\u0301.JPG", "cafe\u0301.JPG")
    rows = [{"image": name, "question": f"is it {name}?", "answer": "yes"} for name in names]
    path = write_rows(tmp_path / "my.jsonl", rows)
    data = CustomDataset(
        str(path), validation=str(path), test=str(path), images=tmp_path / "photos"
    )
    assert set(data.table("train")["image"].to_pylist()) == {
        str(tmp_path / "photos/cafe\u0301.JPG")
    }


def test_a_name_of_several_files_is_a_mistake_of_its_row(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.JPG"):
        image(tmp_path / "photos" / name)
    rows = [{"image": "A.jpg", "question": "is it red?", "answer": "yes"}]
    (said,) = check(tmp_path, train=rows, validation=rows).errors.kept["wrong image"][:1]
    assert "train.jsonl, line 1, column 'image'" in said
    assert "'a.JPG' and 'a.jpg'" in said


def test_a_file_that_got_its_right_name_is_found_again(tmp_path: Path) -> None:
    """The cached question table still works after the image file is renamed."""
    there = image(tmp_path / "photos/a.JPG")
    rows = [{"image": "a.jpg", "question": "is it red?", "answer": "yes"}]
    path = str(write_rows(tmp_path / "my.jsonl", rows))

    def images() -> list[str]:
        data = CustomDataset(path, validation=path, test=path, images=tmp_path / "photos")
        return data.table("train")["image"].to_pylist()

    assert images() == [str(there)]
    renamed = there.rename(there.with_suffix(".jpg"))
    assert images() == [str(renamed)]


def test_photos_that_come_later_are_found(tmp_path: Path) -> None:
    """A table is read again once its missing photos are added."""
    row = {"image": "photos/a.jpg", "question": "is it?", "answer": "yes"}
    path = write_rows(tmp_path / "my.jsonl", [row])

    def found() -> str:
        data = CustomDataset(path, test=path, images=tmp_path, allow_shared_questions=True)
        return str(data.table("test")["image"][0])

    assert found() == str(tmp_path / "photos/a.jpg")
    image(tmp_path / "photos/A.JPG")
    assert found() == str(tmp_path / "photos/A.JPG")
