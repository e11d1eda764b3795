"""PathVQA: reading a miniature in the Hugging Face layout."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vlm.data.images.store import open_image
from vlm.datasets import PathVQA


def picture(color: str) -> dict[str, Any]:
    content = io.BytesIO()
    Image.new("RGB", (5, 7), color).save(content, "JPEG")
    return {"bytes": content.getvalue(), "path": None}


def row(color: str, answer: str, question: str = "is this a cell?") -> dict[str, Any]:
    return {"image": picture(color), "question": question, "answer": answer}


def save(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    first, second = [row("red", "yes"), row("blue", "a vein")], [row("red", "No")]
    save(tmp_path / "data/train-00001-of-00002-f00.parquet", second)
    save(tmp_path / "data/train-00000-of-00002-a1b.parquet", first)
    save(tmp_path / "data/validation-00000-of-00001-77.parquet", second)
    save(tmp_path / "data/test-00000-of-00001.parquet", first)
    return tmp_path


def test_the_files_of_a_split_are_one_table(root: Path) -> None:
    data = PathVQA(root)
    rows = data.table("train").to_pylist()
    assert [row["id"] for row in rows] == ["train-0", "train-1", "train-2"]
    assert [row["answers"] for row in rows] == [["yes"], ["a vein"], ["No"]]
    assert [row["answer_type"] for row in rows] == ["yes/no", "open", "yes/no"]
    assert rows[0]["question"] == "is this a cell?"
    assert len(data.table("validation")) == 1
    assert len(data.table("test")) == 2


def test_equal_images_are_one_image(root: Path) -> None:
    data = PathVQA(root)
    first, second, third = data.table("train")["image"].to_pylist()
    assert first == third != second
    colors = [open_image(image, data.image_source).getpixel((2, 2)) for image in (first, second)]
    assert [color[0] > 200 for color in colors] == [True, False]
    assert [color[2] > 200 for color in colors] == [False, True]


def test_a_missing_part_is_named(root: Path) -> None:
    (root / "data/train-00001-of-00002-f00.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"train-00001-of-00002.*huggingface\.co/datasets"):
        PathVQA(root).table("train")
    (root / "data/test-00000-of-00001.parquet").rename(root / "data/test_qa.pkl")
    with pytest.raises(FileNotFoundError, match=r"test-00000-of-00001\*\.parquet: there is no"):
        PathVQA(root).table("test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": None}, "question 1: got None for 'answer'; expected a text"),
        ({"image": {"bytes": None, "path": "a.jpg"}}, "row 1: the image has no bytes"),
        ({"question": " "}, r"row 1 \(id 'validation-0'\): got the question ' '"),
    ],
)
def test_a_wrong_row_is_named(change: dict[str, Any], message: str, root: Path) -> None:
    save(root / "data/validation-00000-of-00001-77.parquet", [row("red", "no") | change])
    with pytest.raises(ValueError, match=rf"validation-00000-of-00001-77\.parquet, {message}"):
        PathVQA(root).table("validation")


def test_a_file_that_is_no_parquet_is_named(root: Path) -> None:
    (root / "data/test-00000-of-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"test-00000-of-00001\.parquet: not a readable Parquet"):
        PathVQA(root).table("test")
