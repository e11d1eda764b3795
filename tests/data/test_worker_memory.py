"""Loader workers share the question table, however they are started."""

from __future__ import annotations

import gc
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from vlm.data import table_rows
from vlm.data.batches import VQADataset
from vlm.data.sampler import BatchRows
from vlm.datasets import arrow as arrow_file
from vlm.datasets.arrow import in_pieces, map_arrow, write_arrow
from vlm.datasets.table import question_table, with_rows
from vlm.heads import AnswerVocabulary
from vlm.image.transform import ImageTransform
from vlm.processor import Processor
from vlm.text import WordTokenizer


@pytest.fixture
def processor() -> Processor:
    encode = AnswerVocabulary(["a", "b"]).encode
    return Processor(ImageTransform((3, 5)), WordTokenizer(["what"]), encode)


def questions(count: int, image: Path) -> pa.Table:
    rows = (
        {"id": str(n), "image": str(image), "question": f"what is {n}?", "answers": ["a", "b"]}
        for n in range(count)
    )
    return question_table(rows, "test")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_batches_of_a_large_table_allocate_only_their_rows(
    image: Path, processor: Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_rows, "SMALL", 10**6)
    table = questions(20_000, image)
    assert table["id"].num_chunks > 1
    before = pa.total_allocated_bytes()
    data = VQADataset(table, processor)
    batch = data[BatchRows(np.array([19_999, 0, 8192]), 3)]
    assert batch.ids == ["19999", "0", "8192"]
    assert pa.total_allocated_bytes() - before < 10_000


def test_a_part_of_a_table_in_one_piece_is_mapped_too(image: Path, tmp_path: Path) -> None:
    table = questions(20_000, image)
    assert table["id"].num_chunks == 3
    write_arrow(str(tmp_path / "kept.arrow"), in_pieces(table), table.schema)
    kept = map_arrow(tmp_path / "kept.arrow")
    assert kept["id"].num_chunks == 1
    before = pa.total_allocated_bytes()
    part = with_rows(kept, np.arange(20_000) != 7)
    assert pa.total_allocated_bytes() - before < 10_000
    assert part["id"].to_pylist() == [str(n) for n in range(20_000) if n != 7]


def test_pieces_are_bounded(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = questions(20_000, image)
    first, second, third = table.to_batches()
    monkeypatch.setattr(arrow_file, "PIECE", first.nbytes + second.nbytes)
    assert [len(piece) for piece in in_pieces(table)] == [2 * len(first), len(third)]
    monkeypatch.setattr(arrow_file, "PIECE", 1)
    assert pa.Table.from_batches(in_pieces(table)) == table


def test_a_pickled_data_set_is_as_small_with_many_questions(
    image: Path, processor: Processor
) -> None:
    few, many = (VQADataset(questions(count, image), processor) for count in (10, 20_000))
    assert abs(len(pickle.dumps(many)) - len(pickle.dumps(few))) < 100

    copy = pickle.loads(pickle.dumps(many))
    rows = BatchRows(np.array([12_345, 7]), 2)
    assert copy[rows].ids == many[rows].ids == ["12345", "7"]
    again = pickle.loads(pickle.dumps(copy))
    assert again[rows].ids == ["12345", "7"]


def test_the_temporary_file_goes_with_the_data_set(
    image: Path, processor: Processor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    data = VQADataset(questions(10, image), processor)
    for _ in range(2):
        pickle.dumps(data)
    (file,) = tmp_path.glob("vlm-worker-*")
    del data
    gc.collect()
    assert not file.exists()


@pytest.mark.slow
def test_workers_that_are_no_forks_give_the_same_batches(image: Path, processor: Processor) -> None:
    data = VQADataset(questions(20_000, image), processor)
    order = [BatchRows(np.array([first, first + 1]), 2) for first in (15_000, 3)]
    loader = DataLoader(
        data,
        sampler=order,
        batch_size=None,
        collate_fn=_same,
        num_workers=1,
        multiprocessing_context="spawn",
    )
    assert [batch.ids for batch in loader] == [["15000", "15001"], ["3", "4"]]


def _same(batch: object) -> object:
    return batch
