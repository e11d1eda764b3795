"""Trainings, answers and explanations on a pretended GPU; `test_pretended_gpu.py` runs it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import rest_slow
from lightning.pytorch import Callback
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from pretend import DEVICE, on_device, pretended, waits

import vlm
from vlm.explain.explainer import explain_case, make_case, methods_for
from vlm.explain.methods import METHODS
from vlm.fusion import CrossAttention, Pooled
from vlm.heads import Classification, Generation, TransformerDecoder
from vlm.image import ConvNet
from vlm.text import BagOfWords, Transformer


class Pretended(Accelerator):
    """Lightning's view of the device."""

    def setup_device(self, device: torch.device) -> None:
        pass

    def teardown(self) -> None:
        pass

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        return {}

    @staticmethod
    def parse_devices(devices: Any) -> Any:
        return devices

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [DEVICE]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return "pretend"


class Steps(Callback):
    """The waits of each step, and those before the step has given all its work to the device."""

    def __init__(self) -> None:
        self.steps: list[list[str]] = []
        self.middle: list[str] = []

    def on_train_batch_start(self, trainer: Any, task: Any, batch: Any, number: int) -> None:
        if number > 0:  # nothing was validated since
            self.steps.append(list(waits))  # of the step before, with what `RunCheckpoint` does
        waits.clear()

    def on_train_batch_end(self, *_: Any) -> None:
        self.middle += waits  # `RunCheckpoint` comes after this


def pooled(words: Any, answers: Any) -> list[Any]:
    image, text = ConvNet(8, widths=(5, 7)), BagOfWords(words, 8)
    fusion = Pooled(image.dim, text.dim)
    return [image, text, fusion, Classification(fusion.out_dim, answers)]


def attending(words: Any, answers: Any) -> list[Any]:
    image, text = ConvNet(8, widths=(5, 7)), Transformer(words, dim=8, num_heads=2, num_layers=1)
    fusion = CrossAttention(image.dim, text.dim, out_dim=8, num_heads=2, num_layers=1)
    decoder = partial(TransformerDecoder, dim=8, num_heads=2, num_layers=1)
    return [image, text, fusion, Generation(fusion.out_dim, decoder)]


def trained(
    make: Callable[..., list[Any]], data: Path, folder: Path, *callbacks: Callback, **options: Any
) -> vlm.Run:
    torch.manual_seed(0)
    module = vlm.VQADataModule(vlm.datasets.EasyVQA(str(data), validation_share=0.25), 2)
    optimizer = partial(torch.optim.AdamW, lr=0.003, fused=True)
    task = vlm.VQATask(*make(module.words, module.answers), optimizer)
    quiet = {"log_every_n_steps": 0, "enable_progress_bar": False, "max_epochs": 2}
    where = {"folder": str(folder), "test": False, "enable_checkpointing": False}
    return vlm.fit(task, module, callbacks=list(callbacks), **quiet | where | options)


@pytest.mark.parametrize("make", rest_slow([pooled, attending], attending))
def test_a_step_waits_once_at_its_end(make: Any, data: Path, tmp_path: Path) -> None:
    """It gives the CPU's weights, whose numbers are checked one step late too."""
    here = trained(make, data, tmp_path / "cpu", accelerator="cpu", gradient_clip_val=0.5)
    with pretended():
        seen = Steps()
        there = trained(
            make,
            data,
            tmp_path / "device",
            seen,
            accelerator=Pretended(),
            strategy=SingleDeviceStrategy(device=DEVICE),
            devices=1,
            gradient_clip_val=0.5,
        )
        assert seen.middle == []
        assert len(seen.steps) == 8
        assert [wait for step in seen.steps for wait in step if "an event" not in wait] == []
        assert max(map(len, seen.steps)) == 1
        state = there.task.model.state_dict()
    for name, value in here.task.model.state_dict().items():
        got = getattr(state[name], "held", state[name])
        # On average: Adam takes a whole step of 0.003 where a gradient is nearly nothing.
        assert (got.double() - value.double()).abs().mean().item() < 1e-3, name


@pytest.mark.parametrize("make", rest_slow([pooled, attending], attending))
def test_answers_and_explanations(make: Any, data: Path) -> None:
    torch.manual_seed(0)
    words, answers = ["what", "color", "is", "it"], ["red", "blue", "no"]
    model = vlm.model.VQAModel(*make(words, answers))
    image, question = data / "test/images/0.png", "what color is it?"
    expected = vlm.VQA(model).answer(image, question)
    with pretended():
        vqa = vlm.VQA(on_device(model))
        found = vqa.answer(image, question)
        assert found.text == expected.text
        assert found.probability == pytest.approx(expected.probability, rel=1e-4)
        for name in methods_for(vqa.model):
            case = make_case(vqa.model, image, question, "red", None)
            assert explain_case(case, METHODS[name]()).words
