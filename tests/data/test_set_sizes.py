"""A set whose size differs from the published one causes a warning that cites the source."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
from spoilt_miniatures import MINIATURES
from test_set_configs import public_sets

from vlm import datasets as sets
from vlm.datasets import CustomDataset, Mixture
from vlm.datasets.base import Dataset, Split

# Reader, miniature, split, number of questions, published number, source.
SIZES: list[tuple[str, str, Split, int, str, str]] = [
    ("VQAv1", "vqa_v1", "train", 18, "248,349", "https://visualqa.org/vqa_v1_download.html"),
    ("VQAv1", "vqa_v1", "validation", 10, "121,512", "https://visualqa.org/vqa_v1_download.html"),
    ("VQAv2", "vqa_v2 types", "train", 18, "443,757", "https://visualqa.org/download.html"),
    ("VQAv2", "vqa_v2 types", "validation", 10, "214,354", "https://visualqa.org/download.html"),
    ("OKVQA", "ok_vqa", "train", 18, "9,009", "arXiv:1906.00067"),
    ("OKVQA", "ok_vqa", "test", 10, "5,046", "arXiv:1906.00067"),
    ("TextVQA", "text_vqa", "train", 3, "34,602", "https://textvqa.org/dataset"),
    ("TextVQA", "text_vqa", "validation", 3, "5,000", "https://textvqa.org/dataset"),
    ("TextVQA", "text_vqa", "test", 3, "5,734", "https://textvqa.org/dataset"),
    ("VizWiz", "vizwiz", "train", 3, "20,523", "https://vizwiz.org/tasks-and-datasets/vqa/"),
    ("VizWiz", "vizwiz", "validation", 3, "4,319", "https://vizwiz.org/tasks-and-datasets/vqa/"),
    ("VizWiz", "vizwiz", "test", 3, "8,000", "https://vizwiz.org/tasks-and-datasets/vqa/"),
    ("CLEVR", "clevr", "train", 7, "699,989", "https://cs.stanford.edu/people/jcjohns/clevr/"),
    ("CLEVR", "clevr", "validation", 7, "149,991", "https://cs.stanford.edu/people/jcjohns/clevr/"),
    (
        "COCOQA",
        "coco_qa",
        "train",
        3,
        "78,736",
        "https://www.cs.toronto.edu/~mren/research/imageqa/data/cocoqa/",
    ),
    (
        "Visual7W",
        "visual7w",
        "validation",
        1,
        "28,020",
        "https://github.com/yukezhu/visual7w-toolkit",
    ),
]


@pytest.mark.parametrize(("reader", "name", "split", "got", "published", "cited"), SIZES)
def test_another_size_than_the_published_is_said(
    reader: str, name: str, split: Split, got: int, published: str, cited: str, tmp_path: Path
) -> None:
    MINIATURES[name].write(tmp_path)
    data: Dataset = getattr(sets, reader)(root=tmp_path)
    wanted = rf"^{tmp_path}.*: got {got} questions?; {re.escape(cited)} gives {published}\. Get the"
    with pytest.warns(UserWarning, match=wanted):
        data.read(split)


def test_the_published_size_is_not_warned_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sets.CLEVR, "sizes", {"train": 7})
    MINIATURES["clevr"].write(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(sets.CLEVR(tmp_path).read("train") or ()) == 7


def test_every_reader_checks_its_size_or_says_why_not() -> None:
    checked = {reader for reader, *_ in SIZES}
    for each in public_sets() - {Dataset, CustomDataset, Mixture}:
        said = re.search(r"\b[Nn]o size\s+is\s+checked", each.__doc__ or "")
        assert bool(said) != (each.__name__ in checked), each.__name__
