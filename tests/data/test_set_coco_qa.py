"""COCO-QA: reading a miniature in the official layout."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlm.datasets import COCOQA

FILES = {
    "questions": ["what is on the bed", "how many dogs are there", "where is the cup"],
    "answers": ["cat", "two", "table"],
    "img_ids": ["42", "581929", "42"],
    "types": ["0", "1", "3"],
}


def write(folder: Path, **changes: list[str]) -> None:
    folder.mkdir(exist_ok=True)
    for name, lines in (FILES | changes).items():
        (folder / f"{name}.txt").write_text("".join(line + "\n" for line in lines))


@pytest.mark.filterwarnings("ignore:.*got 3 questions")
@pytest.mark.parametrize(("split", "part"), [("train", "train2014"), ("test", "val2014")])
def test_a_split_is_four_files(split: str, part: str, tmp_path: Path) -> None:
    write(tmp_path / split)
    rows = COCOQA(tmp_path, images=tmp_path / "coco").read(split).to_pylist()
    assert [row["id"] for row in rows] == [f"{split}-{i}" for i in range(3)]
    photos = [str(tmp_path / f"coco/{part}/COCO_{part}_{i:012d}.jpg") for i in (42, 581929, 42)]
    assert [row["image"] for row in rows] == photos
    assert [row["question"] for row in rows] == FILES["questions"]
    assert [row["answers"] for row in rows] == [["cat"], ["two"], ["table"]]
    assert [row["answer_type"] for row in rows] == ["object", "number", "location"]
    assert COCOQA(tmp_path).read(split)["image"][0].as_py() == photos[0].replace("/coco", "")


@pytest.mark.filterwarnings("ignore:.*got 3 questions")
def test_validation_is_cut_from_the_training_photos(tmp_path: Path) -> None:
    write(tmp_path / "train")
    data = COCOQA(tmp_path, validation_share=0.5)
    images = [set(data.table(s)["image"].to_pylist()) for s in ("train", "validation")]
    assert not images[0] & images[1]


def test_another_size_than_the_published_is_said(tmp_path: Path) -> None:
    write(tmp_path / "test")
    with pytest.warns(UserWarning, match=r"got 3 questions; .*cocoqa/ gives 38,948"):
        COCOQA(tmp_path).read("test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"types": ["0", "4", "0"]}, "line 2 of each file: got .* the type '4'; expected"),
        ({"img_ids": ["1", "2", "x"]}, "line 3 of each file: got .* the image id 'x'"),
        ({"answers": ["", "a", "b"]}, "line 1 of each file: got the answer ''"),
        ({"answers": ["a", "b"]}, "questions.txt 3, answers.txt 2, img_ids.txt 3, types.txt 3"),
        ({"questions": ["a", " ", "b"]}, "questions.txt, line 2 .*got the question ''"),
    ],
)
def test_files_out_of_step_are_named(
    change: dict[str, list[str]], message: str, tmp_path: Path
) -> None:
    write(tmp_path / "train", **change)
    with pytest.raises(ValueError, match=message):
        COCOQA(tmp_path).read("train")


def test_a_missing_file_says_where_to_get_it(tmp_path: Path) -> None:
    write(tmp_path / "train")
    (tmp_path / "train/types.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"types\.txt.*cocoqa-2015-05-17\.zip"):
        COCOQA(tmp_path).read("train")
