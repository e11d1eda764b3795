"""Each ablation removes one input and nothing else."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import torch

from vlm.data.ablations import controlled
from vlm.data.datamodule import VQADataModule
from vlm.data.images.sources import ImageOptions
from vlm.datasets import EasyVQA
from vlm.heads import Classification
from vlm.image import ConvNet
from vlm.image.transform import GREY
from vlm.processor import Processor
from vlm.text import WordTokenizer


def module(data: Path, control: Any, seed: int = 0, **arguments: Any) -> VQADataModule:
    made = VQADataModule(
        EasyVQA(root=data, seed=seed),
        images_per_batch=4,
        seed=seed,
        control=control,
        **arguments,
    )
    tokenizer = WordTokenizer(made.words)
    processor = Processor(
        ConvNet().transform, tokenizer, lambda answers, choices: [a[0] for a in answers]
    )
    # The parts of a trainer that the data module uses.
    task = torch.nn.Module()
    task.teacher = None
    task.model = torch.nn.Module()
    task.model.processor = processor
    task.model.fusion = torch.nn.Module()
    task.model.fusion.max_images = 1
    task.model.head = Classification(3, answers=["yes", "no"])
    made.trainer = SimpleNamespace(
        lightning_module=task,
        global_rank=0,
        world_size=1,
        num_devices=1,
        accumulate_grad_batches=1,
        overfit_batches=0.0,
        limit_train_batches=1.0,
        strategy=SimpleNamespace(root_device=torch.device("cpu"), barrier=lambda: None),
    )
    for stage in ("fit", "test"):
        made.setup(stage)
    return made


def batches(made: VQADataModule) -> list[Any]:
    loaders = (made.train_dataloader(), made.val_dataloader(), made.test_dataloader())
    return [batch for loader in loaders for batch in loader]


@pytest.mark.parametrize("cache", [True, False])
def test_each_control_takes_one_side_away(data: Path, cache: bool) -> None:
    full = batches(module(data, None, images=ImageOptions(in_memory=cache)))
    for control in ("question_only", "image_only", "image_shuffled"):
        made = module(data, control, images=ImageOptions(in_memory=cache))
        assert made.words == module(data, None).words
        assert made.table("test").equals(module(data, None).table("test")), "for the scores"
        for before, after in zip(full, batches(made), strict=True):
            assert before.ids == after.ids
            assert before.targets == after.targets
            pictures = before.images[before.image_index], after.images[after.image_index]
            if control == "question_only":
                assert (after.images == GREY).all()
            elif control == "image_only":
                torch.testing.assert_close(*pictures, rtol=0, atol=0)
                assert after.words.unique().numel() == 1
                assert after.words_mask.all(), "a row without words would hide the image too"
            if control != "image_only":
                torch.testing.assert_close(before.words, after.words)


def test_each_of_two_images_gets_the_other() -> None:
    images = ["a.png", "b.png", "a.png"]
    table = pa.table({"image": images, "question": ["what is it?"] * 3})
    for seed in range(3):
        shuffled = controlled(table, "image_shuffled", seed)["image"].to_pylist()
        assert shuffled == ["b.png", "a.png", "b.png"]


def test_shuffled_images_are_wrong_ones_of_the_same_split(data: Path) -> None:
    table = module(data, None).table("test")
    shuffled = controlled(table, "image_shuffled", 0)
    before, after = table["image"].to_pylist(), shuffled["image"].to_pylist()
    assert all(a != b for a, b in zip(before, after, strict=True))
    assert set(before) == set(after)
    other = defaultdict(set)
    for a, b in zip(before, after, strict=True):
        other[a].add(b)
    assert all(len(found) == 1 for found in other.values()), "one image for all its questions"
    assert after == controlled(table, "image_shuffled", 0)["image"].to_pylist()
    assert after != controlled(table, "image_shuffled", 1)["image"].to_pylist()
    assert shuffled.drop(["image"]).equals(table.drop(["image"]))


def test_an_unknown_control(data: Path) -> None:
    with pytest.raises(ValueError, match="control: got 'blind'; expected one of question_only"):
        VQADataModule(EasyVQA(root=data), control="blind")


@pytest.mark.parametrize("control", ["no_image", "no_question"])
def test_a_side_that_is_left_out_is_masked_in_every_split(data: Path, control: str) -> None:
    other = {"no_image": "no_question", "no_question": "no_image"}[control]
    found = batches(module(data, control))
    assert found
    for batch in found:
        assert getattr(batch, control).all()
        assert getattr(batch, other) is None
