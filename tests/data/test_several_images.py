"""Questions about several images: read, checked, divided and put into batches."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import COLORS
from PIL import Image
from torch.testing import assert_close

from vlm.core.features import Features
from vlm.core.together import together
from vlm.data import VQADataModule
from vlm.data.augmentation.options import Augment, Augmenter
from vlm.data.batches import VQADataset
from vlm.data.check.check import check_data
from vlm.data.sampler import BatchRows
from vlm.datasets import CustomDataset
from vlm.datasets.errors import DataError
from vlm.datasets.several import images_of
from vlm.datasets.table import question_table, split_groups
from vlm.heads import AnswerVocabulary
from vlm.image.transform import ImageTransform
from vlm.processor import Processor
from vlm.text import WordTokenizer

PAIR = ["red.png", "blue.png"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for color, value in COLORS.items():
        Image.new("RGB", (6, 4), value).save(tmp_path / f"{color}.png")
    return tmp_path


def row(image: Any, number: int = 0) -> dict[str, Any]:
    return {"image": image, "question": f"which is red? {number}", "answer": "the first"}


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return str(path)


def lists(data: CustomDataset) -> list[list[str]]:
    table = data._table("train")
    return [[Path(name).name for name in images_of(image)] for image in table["image"].to_pylist()]


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_every_form_takes_lists(form: str, photos: Path) -> None:
    given = [PAIR, "green.png", ["blue.png", "./red.png"], ["green.png"]]
    path = photos / f"my.{form}"
    if form == "jsonl":
        write(path, [row(image) for image in given])
    elif form == "csv":
        cells = [image if isinstance(image, str) else json.dumps(image) for image in given]
        quoted = [cell.replace('"', '""') for cell in cells]
        lines = [f'"{cell}",which is red?,the first' for cell in quoted]
        path.write_text("\n".join(["image,question,answer", *lines]))
    else:
        listed = [[image] if isinstance(image, str) else image for image in given]
        pq.write_table(pa.Table.from_pylist([row(image) for image in listed]), path)
    found = lists(CustomDataset(str(path)))
    assert found == [PAIR, ["green.png"], PAIR[::-1], ["green.png"]]


def test_images_inside_the_file_are_listed_too(photos: Path) -> None:
    content = [{"bytes": (photos / name).read_bytes(), "path": None} for name in PAIR]
    pq.write_table(pa.Table.from_pylist([row(content), row(content[:1])]), photos / "my.parquet")
    data = CustomDataset(str(photos / "my.parquet"))
    table = data._table("train")
    first, second = images_of(table["image"][0].as_py())
    assert table["image"][1].as_py() == first
    assert data.image_source(second) == (photos / "blue.png").read_bytes()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ([], "got an empty list; expected an image, or several"),
        (["red.png", None], "image 2 of 2 is missing"),
        (["red.png", ""], "image 2 of 2 is missing"),
        (["red.png", 3], "image 2 of 2: got 3; expected the path"),
        (["red.png", "https://a.b/c.png"], "image 2 of 2: got the address"),
    ],
)
def test_a_wrong_list_is_named_with_its_line(image: Any, message: str, photos: Path) -> None:
    path = write(photos / "my.jsonl", [row("red.png"), row(image)])
    with pytest.raises(DataError, match=rf"my\.jsonl, line 2, column 'image'.*{message}"):
        CustomDataset(path).table("train")


@pytest.mark.parametrize("image", [[], ["a.png", ""], ["a.png", 3]])
def test_a_reader_cannot_give_a_wrong_list(image: Any) -> None:
    given = {"id": "1", "image": image, "question": "what?"}
    with pytest.raises(DataError, match=r"question 1.*got .*expected"):
        question_table([given], "test")


def test_check_data_reads_each_image_of_a_list(photos: Path) -> None:
    rows = [row([f"{n}-a.png", f"{n}-b.png"], n) for n in range(9)]
    for one in rows[1:]:
        for name in one["image"]:
            Image.new("RGB", (2, 2)).save(photos / name)
    Image.new("RGB", (2, 2)).save(photos / "0-a.png")
    found = check_data(VQADataModule(CustomDataset(write(photos / "my.jsonl", rows))))
    (problem,) = [one for kept in found.errors.kept.values() for one in kept]
    assert "my.jsonl, line 1" in problem
    assert "0-b.png: there is no such file" in problem
    assert sum(part.images for name, part in found.splits.items() if name != "predict") == 18


def test_check_data_finds_one_image_of_a_list_in_two_splits(photos: Path) -> None:
    train = write(photos / "my.jsonl", [row(PAIR), row("green.png", 1)])
    test = write(photos / "test.jsonl", [row(["green.png", "blue.png"], 2)])
    data = CustomDataset(train, validation=test, test=test)
    found = check_data(VQADataModule(data), images=False)
    said = [one for one in found.errors.kept["image in two splits"] if "train" in one]
    names = {match[1] for one in said if (match := re.search(r"(\w+)\.png' is in train", one))}
    assert names == {"green", "blue"}


def test_no_split_tears_lists_apart_that_share_an_image() -> None:
    images = ["a", ["a", "b"], "c", ["b", "d"], ["d", "e"], ["f", "g"], "f", ["h", "i"]]
    rows = [{"id": str(n), "image": i, "question": "what?"} for n, i in enumerate(images)]
    groups = split_groups(question_table(rows, "test")).tolist()
    assert [groups.index(group) for group in groups] == [0, 0, 2, 0, 0, 5, 5, 7]
    assert sorted(set(groups)) == [0, 1, 2, 3]


@pytest.fixture
def processor() -> Processor:
    words = WordTokenizer(["which", "is", "red"])
    return Processor(ImageTransform((3, 5)), words, AnswerVocabulary(["the first"]).encode)


@pytest.fixture
def table(photos: Path) -> pa.Table:
    given = [PAIR, "green.png", PAIR[::-1], ["green.png", "red.png", "blue.png"], "red.png"]
    path = write(photos / "my.jsonl", [row(image, n) for n, image in enumerate(given)])
    return CustomDataset(path)._table("train")


def seen(batch: Any, question: int) -> list[list[int]]:
    """The colours of a question's images."""
    rows = batch.image_index[question : question + 1]
    if batch.image_lists is not None:
        rows = batch.image_lists[rows[0]]
    return [batch.images[number][:, 0, 0].tolist() for number in rows.tolist() if number >= 0]


def test_a_batch_has_each_image_once(table: pa.Table, processor: Processor) -> None:
    data = VQADataset(table, processor)
    batch = data[BatchRows(np.array([0, 1, 2, 3, 4]), 5)]
    assert len(batch.images) == 3
    assert batch.image_lists is not None
    assert batch.image_lists.tolist() == [
        [0, 1, -1], [2, -1, -1], [1, 0, -1], [2, 0, 1], [0, -1, -1]
    ]  # fmt: skip
    red, green, blue = (list(color) for color in COLORS.values())
    expected = [[red, blue], [green], [blue, red], [green, red, blue], [red]]
    assert [seen(batch, question) for question in range(5)] == expected
    copied = pickle.loads(pickle.dumps(data))[BatchRows(np.array([2, 4]), 2)]
    assert [seen(copied, question) for question in range(2)] == [expected[2], expected[4]]
    alone = data[BatchRows(np.array([1, 4]), 2)]
    assert alone.image_lists is None
    assert alone.image_index.tolist() == [0, 1]


def test_augmentation_is_an_image_s_own_in_every_list(
    table: pa.Table, processor: Processor
) -> None:
    pytest.importorskip("torchvision")
    from vlm.data.augmentation import Erasing

    augmenter = Augmenter(Augment(images=[Erasing(probability=1.0)]), seed=0)
    data = VQADataset(table, processor, augment=augmenter)
    whole = data[BatchRows(np.array([0, 3, 4]), 3)]
    alone = data[BatchRows(np.array([4]), 1)]
    assert whole.image_lists is not None
    assert_close(alone.images[0], whole.images[whole.image_lists[2, 0]], rtol=0, atol=0)


def test_a_mirror_is_refused(photos: Path) -> None:
    from vlm.data.augmentation import Mirror

    data = CustomDataset(write(photos / "my.jsonl", [row([f"{n}.png", f"-{n}.png"], n)
                                                     for n in range(9)]))  # fmt: skip
    with pytest.raises(
        DataError, match=r"data\.augment\.mirror: got a mirror, and questions about"
    ):
        Augment(mirror=Mirror()).check(data, ["the first"], reads_regions=False)


def test_features_are_put_in_a_row_by_hand() -> None:
    tokens = torch.tensor([[[1.0], [3.0]], [[5.0], [9.0]]])
    mask = torch.tensor([[True, True], [True, False]])
    boxes = torch.tensor([[[0.0, 0, 0.5, 1], [0.5, 0, 1, 1]], [[0, 0, 1, 1], [0, 0, 1, 1]]])
    images = Features(tokens, mask, boxes=boxes)
    numbers = torch.tensor([[[0.0], [1.0]], [[0.0], [10.0]]])  # the second: twice, and 10 more
    row, single = (
        take[number : number + 1] for number in (0, 1) for take in [torch.tensor([[1, 0], [0, -1]])]
    )
    made = together(images, row, numbers)
    assert made.tokens[made.mask].flatten().tolist() == [5, 12, 16]
    assert made.pooled.tolist() == [[(5 + (2 * 2 + 10)) / 2]]
    assert made.boxes is not None
    assert made.boxes[0, 2].tolist() == [0.5, 0, 0.75, 1]
    assert made.boxes[0, 0].tolist() == [0, 0, 0.5, 1]
    made = together(images, single, numbers)
    assert made.tokens[made.mask].flatten().tolist() == [1, 3]
    assert made.pooled.tolist() == [[2]]
