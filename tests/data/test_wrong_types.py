"""Python arguments of the wrong type are refused with a message that says what to pass."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from custom_files import write_photos, write_rows

import vlm.datasets
from vlm.data import VQADataModule
from vlm.data.images.sources import ImageOptions
from vlm.data.shards.source import Shards
from vlm.datasets import CustomDataset, Dataset, EasyVQA
from vlm.datasets.errors import DataError
from vlm.datasets.table import question_table

SETS = [
    found
    for found in (getattr(vlm.datasets, name) for name in vlm.datasets.__all__)
    if inspect.isclass(found) and found is not Dataset
]


@pytest.mark.parametrize("kind", [str, Path])
def test_paths_are_str_or_path(kind: Any, tmp_path: Path) -> None:
    my = write_rows(tmp_path / "my.jsonl", write_photos(tmp_path, images=10))
    data = CustomDataset(kind(my), test=kind(my), images=kind(tmp_path / "photos"))
    assert data.table("test")["image"][0].as_py() == str(tmp_path / "photos/0-0.png")
    assert len(data.table("train")) == 18


@pytest.mark.parametrize("name", ["root", "images"])
@pytest.mark.parametrize("data_set", SETS)
def test_every_set_takes_both_and_nothing_else(data_set: Any, name: str, tmp_path: Path) -> None:
    if name not in inspect.signature(data_set).parameters:
        return
    given = {"path": "my.jsonl"} if data_set is CustomDataset else {"root": tmp_path}
    for kind in (str, Path):
        data = data_set(**given | {name: kind(tmp_path)})
        assert getattr(data, name) == tmp_path
    for wrong in (3, ["a"], b"a"):
        with pytest.raises(TypeError, match=rf"{name}: got .*; expected one path, as str or"):
            data_set(**given | {name: wrong})


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"path": ["a.csv", "b.csv"]}, TypeError, r"path: got \['a.csv', .*; expected one path"),
        ({"path": None}, TypeError, "path: got None; expected one path"),
        ({"validation": 3}, TypeError, "validation: got 3; expected one path"),
        ({"test": ["a"]}, TypeError, "test: got"),
        ({"columns": ["image"]}, TypeError, r"columns: got \['image'\]; expected a dict"),
        ({"columns": "image"}, TypeError, "columns: got 'image'; expected a dict"),
        ({"vocabulary": {"max_answers": 3}}, TypeError, "vocabulary: .* expected a vlm.datasets.v"),
        ({"validation_share": "10 %"}, ValueError, "validation_share: got 10 %; expected a share"),
    ],
)  # fmt: skip
def test_arguments_of_own_data(given: dict[str, Any], error: Any, said: str) -> None:
    with pytest.raises(error, match=said):
        CustomDataset(**{"path": "my.jsonl"} | given)


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"dataset": "my.jsonl"}, TypeError, "dataset: got 'my.jsonl'; expected a vlm.datasets.b"),
        ({"images": "photos"}, TypeError, "images: got 'photos'; expected a vlm.data.images.s"),
        ({"workers": "two"}, ValueError, "workers: got two; expected 0 or more"),
        ({"images_per_batch": "16"}, ValueError, "images_per_batch: got '16'"),
    ],
)
def test_arguments_of_the_data_module(given: dict[str, Any], error: Any, said: str) -> None:
    with pytest.raises(error, match=said):
        VQADataModule(**{"dataset": CustomDataset("my.jsonl")} | given)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ImageOptions(regions=3), "images.regions: got 3; expected one path"),
        (lambda: ImageOptions(regions=["a", 3]), "images.regions: got 3"),
        (lambda: ImageOptions(features=["a"]), r"images.features: got \['a'\]"),
        (lambda: ImageOptions(shards="a"), r"images.shards: got 'a'; expected vlm.data.shards"),
        (lambda: Shards(["a"]), r"shards.path: got \['a'\]"),
        (lambda: EasyVQA(root=3), "root: got 3"),
    ],
)  # fmt: skip
def test_arguments_of_images(make: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        make()
    assert Shards(Path("a")).path == "a"


ROW = {"id": "1", "image": "a.png", "question": "what?"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answers": "yes"}, "got the answers 'yes'; expected a list with a text per annotator"),
        ({"answers": 3}, "got the answers 3; expected a list"),
        ({"answers": {"yes": 1}}, "got the answers {'yes': 1}; expected a list"),
        ({"answers": np.array(["yes"])}, r"got the answers array\(.*; expected a list"),
        ({"answers": ["yes", 3]}, r"got 3 in the answers \['yes', 3\]; expected a text"),
        ({"answers": [["yes"]]}, r"got \['yes'\] in the answers"),
        ({"choices": "yes"}, "got 'yes'; expected a list of texts"),
        ({"choices": 3}, "got 3; expected a list of texts"),
        ({"choices": {"a": 1}}, "got {'a': 1}; expected a list of texts"),
        ({"id": 3}, "got 3; expected a text"),
        ({"id": ["x"]}, r"got \['x'\]; expected a text"),
        ({"image": Path("a.png")}, r"got PosixPath\('a.png'\); expected a text"),
        ({"group": 3}, "got 3; expected a text, or None"),
        ({"question_type": ["a"]}, r"got \['a'\]; expected a text, or None"),
        ({"question": ["what?"]}, r"got the question \['what\?'\]"),
    ],
)
def test_rows_of_a_reader_of_one_s_own(change: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=f"^mine, question 1 .*: {said}"):
        question_table([ROW | change], "mine")
