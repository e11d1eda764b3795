"""Rows become batches, images are read once, and loader workers change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import COLORS
from lightning.fabric.utilities import move_data_to_device
from PIL import Image
from torch import Tensor
from torch.testing import assert_close
from torch.utils.data import DataLoader, DistributedSampler

from vlm.core.batch import Batch
from vlm.core.compat import tree_leaves
from vlm.data.batches import VQADataset
from vlm.data.images.store import ImageStore
from vlm.data.sampler import BatchRows, ImageGroupSampler
from vlm.datasets.table import image_groups, question_table
from vlm.heads import AnswerVocabulary
from vlm.image import ImageError
from vlm.image.transform import ImageTransform
from vlm.processor import Processor
from vlm.text import WordTokenizer

ANSWERS = ["red", "green", "blue"]
# (image, question, answers)
ROWS = [
    ("green", "what is it?", ["green"]),
    ("red", "is it warm or cold?", ["warm", "red", "red"]),
    ("green", "colour?", ["dull", "plain"]),
    ("blue", "what?", ["blue"]),
    ("red", "what is it?", ["red"]),
]


@pytest.fixture
def table(tmp_path: Path) -> pa.Table:
    for color, value in COLORS.items():
        Image.new("RGB", (11, 7), value).save(tmp_path / f"{color}.png")
    return question_table(
        [
            {"id": f"q{i}", "image": str(tmp_path / f"{c}.png"), "question": q, "answers": a}
            for i, (c, q, a) in enumerate(ROWS)
        ],
        "test",
    )


@pytest.fixture
def processor() -> Processor:
    words = WordTokenizer(["what", "is", "it"])
    return Processor(ImageTransform((3, 5)), words, AnswerVocabulary(ANSWERS).encode)


def rows(*numbers: int, total: int | None = None) -> BatchRows:
    return BatchRows(np.array(numbers), total or len(numbers))


def require_same(first: Batch, second: Batch) -> None:
    assert first.ids == second.ids
    assert first.total == second.total
    for name in ("images", "image_index", "words", "words_mask", "text_index", "targets"):
        assert_close(getattr(first, name), getattr(second, name), rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("cached", [False, True])
def test_each_image_and_question_is_there_once(
    table: pa.Table, processor: Processor, cached: bool
) -> None:
    store = ImageStore(processor.transform)
    if cached:
        store.cache(table["image"].to_pylist(), table["id"].to_pylist(), "test")
    batch = VQADataset(table, processor, store)[rows(4, 0, 2, 1, total=17)]
    assert batch.ids == ["q4", "q0", "q2", "q1"]
    assert batch.images.shape == (2, 3, 3, 5)
    assert batch.images.dtype == torch.uint8
    assert batch.image_index.tolist() == [0, 1, 1, 0]
    shown = batch.images[batch.image_index][:, :, 0, 0].tolist()
    assert shown == [list(COLORS[ROWS[i][0]]) for i in (4, 0, 2, 1)]
    assert batch.words.tolist() == [
        [2, 3, 4, 0, 0],
        [1, 0, 0, 0, 0],
        [3, 4, 1, 1, 1],
    ]
    assert batch.words_mask.sum(1).tolist() == [3, 1, 5]
    assert batch.text_index is not None
    assert batch.text_index.tolist() == [0, 0, 1, 2]
    # q2's answers are not in the vocabulary; two of q1's three annotators said red.
    counts = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 0], [2, 0, 0]])
    assert_close(batch.targets.counts, counts)
    assert_close(batch.targets.annotators, torch.tensor([1.0, 1, 2, 3]))
    assert batch.total == 17


def test_each_repeated_question_that_is_cut_counts(processor: Processor) -> None:
    processor.tokenizer.max_length = 2
    images = torch.zeros(1, 3, 3, 5, dtype=torch.uint8)
    with pytest.warns(UserWarning, match="cut to 2 tokens"):
        processor.batch(images, [0] * 7, ["the red circle"] * 7)
    assert processor.tokenizer.cut == 7


def test_unknown_answers_give_no_targets(table: pa.Table, processor: Processor) -> None:
    content = table.to_pylist()
    content[3]["answers"] = None
    dataset = VQADataset(question_table(content, "test"), processor)
    assert dataset[rows(0, 3)].targets is None
    assert dataset[rows(0, 1)].targets is not None
    assert len(dataset) == 5


def test_each_image_is_decoded_once(
    table: pa.Table, processor: Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[bytes] = []
    original = Image.open
    monkeypatch.setattr(
        Image, "open", lambda file, *a, **k: opened.append(file.getvalue()) or original(file)
    )
    VQADataset(table, processor)[rows(0, 1, 2, 4)]
    assert len(opened) == len(set(opened)) == 2  # green and red
    opened.clear()
    store = ImageStore(processor.transform)
    store.cache(table["image"].to_pylist(), table["id"].to_pylist(), "test")
    dataset = VQADataset(table, processor, store)
    for _ in range(2):
        dataset[rows(0, 1, 2, 3, 4)]
    assert len(opened) == len(set(opened)) == 3


def test_workers_change_nothing(table: pa.Table, processor: Processor) -> None:
    def load(**arguments: Any) -> list[Batch]:
        sampler = ImageGroupSampler(image_groups(table), 1, seed=3)
        loader = DataLoader(
            VQADataset(table, processor), sampler=sampler, batch_size=None, **arguments
        )
        return list(loader)

    alone = load(num_workers=0, collate_fn=unchanged)
    workers = load(num_workers=2, collate_fn=unchanged)
    assert len(alone) == 3
    for first, second in zip(alone, workers, strict=True):
        assert isinstance(second, Batch)
        require_same(first, second)


def unchanged(batch: Batch) -> Batch:
    return batch


@pytest.mark.parametrize("cached", [False, True])
def test_a_missing_image_names_file_and_question(
    table: pa.Table, processor: Processor, cached: bool
) -> None:
    path = Path(table["image"][3].as_py())
    path.unlink()
    store = ImageStore(processor.transform)
    wanted = r"Question 'q3': .*blue\.png: there is no such file"
    if cached:
        with pytest.raises(ImageError, match=wanted):
            store.cache(table["image"].to_pylist(), table["id"].to_pylist(), "test")
    else:
        # Two questions about one image come first, so image and id positions differ.
        with pytest.raises(ImageError, match=wanted):
            VQADataset(table, processor, store)[rows(0, 2, 3)]


@pytest.mark.parametrize("cached", [False, True])
def test_a_process_without_questions_gets_a_batch(
    table: pa.Table, processor: Processor, cached: bool
) -> None:
    """If a split has fewer images than there are processes, some get an empty batch."""
    store = ImageStore(processor.transform)
    if cached:
        store.cache(table["image"].to_pylist(), table["id"].to_pylist(), "test")
    nobody = BatchRows(np.empty(0, dtype=np.int64), 1)
    batch = VQADataset(table, processor, store)[nobody]
    assert batch.images.shape == (0, 3, 3, 5)
    assert batch.images.dtype == torch.uint8
    assert batch.image_index.shape == (0,)
    assert batch.words.shape == batch.words_mask.shape == (0, 1)
    assert batch.targets.counts.shape == (0, 3)
    assert (batch.ids, batch.total) == ([], 1)


def test_trainers_leave_the_sampler_alone() -> None:
    """A trainer doesn't replace a sampler that is already distributed."""
    assert isinstance(ImageGroupSampler(np.zeros(1, dtype=np.int64), 1), DistributedSampler)


def test_a_trainer_moves_a_batch_without_looking_at_its_ids(
    processor: Processor, table: pa.Table
) -> None:
    class Untouched(list[str]):
        def __iter__(self) -> Any:
            raise AssertionError("looked for tensors in the ids")

    batch = VQADataset(table, processor)[rows(0, 1, 2)]
    batch = batch._replace(ids=Untouched(batch.ids))
    moved = move_data_to_device(batch, torch.device("meta"))
    assert moved.ids is batch.ids
    leaves = tree_leaves(moved._replace(ids=[]))
    devices = {leaf.device.type for leaf in leaves if isinstance(leaf, Tensor)}
    assert devices == {"meta"}
    assert batch.to(torch.device("cpu")) is batch


def test_pairs_are_the_rows_of_the_batch(tmp_path: Path, processor: Processor) -> None:
    """In any order of the rows, in workers, and as tensors that move with the batch."""
    Image.new("RGB", (5, 5)).save(tmp_path / "image.png")
    asked = [
        {"id": "a", "question": "is it?"},
        {"id": "b", "question": "is it so?", "pair": "a", "relation": "paraphrase"},
        {"id": "c", "question": "is it not?", "pair": "a", "relation": "contradiction"},
    ]
    more = {"image": str(tmp_path / "image.png"), "answers": ["red"]}
    table = question_table([row | more for row in asked], "test")
    assert VQADataset(table, processor)[rows(0, 1, 2)].pairs is None
    dataset = VQADataset(table, processor._replace(takes_pairs=True))
    loader = DataLoader(
        dataset, batch_size=None, sampler=[rows(2, 0, 1), rows(1, 2)], num_workers=1
    )
    whole, part = (move_data_to_device(batch, "cpu") for batch in loader)
    assert whole.ids == ["c", "a", "b"]
    assert [column.tolist() for column in whole.pairs] == [[1, 1], [0, 2], [True, False]]
    assert [column.tolist() for column in part.pairs] == [[], [], []]
