"""Checkpointed gradients, compiled parts, the batch size that fits, and the time of a step."""

from __future__ import annotations

import json
from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import ROOT
from torch import Tensor
from training_runs import fit

import vlm
from vlm.cli.training_cli import VQACLI
from vlm.core.errors import ConfigError
from vlm.image import TimmEncoder
from vlm.model import VQAModel
from vlm.training import step_profile
from vlm.training.large_models import checkpoint_gradients
from vlm.training.run_dir import RunOptions
from vlm.training.step_profile import StepProfile
from vlm.training.task import VQATask

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}


def model(text: Any = None) -> VQAModel:
    image = TimmEncoder("vit_tiny_patch16_224", model_args=VIT)
    text = text or vlm.text.Transformer(["is", "it", "red"], dim=16, num_heads=2, num_layers=2)
    fusion = vlm.fusion.Pooled(image.dim, text.dim)
    return VQAModel(image, text, fusion, vlm.heads.Classification(fusion.out_dim, ["yes", "no"]))


def gradients(made: VQAModel) -> dict[str, Tensor]:
    made.zero_grad()
    torch.manual_seed(1)  # of dropout
    pixels = torch.randint(0, 255, (2, 3, 32, 32), dtype=torch.uint8)
    batch = made.processor.batch(pixels, [0, 1], ["is it red", "it is"], [["yes"], ["no"]])
    made.head.loss(made(batch), batch).backward()
    return {n: p.grad.clone() for n, p in made.named_parameters() if p.grad is not None}


def test_gradients_are_the_same_with_fewer_activations() -> None:
    made = model().train()
    before = gradients(made)
    kept: list[int] = []

    def count(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        gradients(made)
    plain = sum(kept)
    kept.clear()
    checkpoint_gradients(made, ["image_encoder", "text_encoder"])
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        after = gradients(made)
    assert sum(kept) < plain / 2
    assert after.keys() == before.keys()
    for name, gradient in before.items():
        torch.testing.assert_close(after[name], gradient, msg=name)


def test_a_part_that_cannot_is_named() -> None:
    with pytest.raises(ConfigError, match=r"got fusion, a Pooled; expected a part with a model"):
        checkpoint_gradients(model(), ["fusion"])


@pytest.mark.parametrize("option", ["gradient_checkpointing", "compile"])
def test_an_unknown_part_is_named(option: str) -> None:
    with pytest.raises(ValueError, match=rf"run\.{option}: got 'encoder'; expected parts"):
        RunOptions(**{option: ["encoder"]})


@pytest.mark.slow
def test_the_largest_batch_that_fits_is_found(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = fit(
        data, tmp_path, "--run.find_batch_size=true", "--trainer.max_epochs=1",
        "--data.images_per_batch=1",
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        forward = VQAModel.forward

        def limited(self: VQAModel, batch: Any, image: Any = None) -> Any:
            if len(batch.images) > 4:
                raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
            return forward(self, batch, image)

        patch.setattr(VQAModel, "forward", limited)
        cli = VQACLI(arguments)
    said = capsys.readouterr()
    assert "images_per_batch: 4 (run.find_batch_size: 8 need more memory than there is)" in said.out
    assert "atch size" not in said.out.replace("batch_size", "") + said.err, "Lightning's account"
    config = yaml.safe_load((cli.run_folder / "config.yaml").read_text())
    assert config["data"]["images_per_batch"] == 4
    assert cli.trainer.global_step == 3, "9 images in batches of 4"
    again = VQACLI([*arguments, f"--ckpt_path={cli.run_folder}", "--trainer.max_epochs=1"])
    assert again.datamodule.images_per_batch == 4, "a continued run keeps its batches"
    assert "images_per_batch: 4 (run.find_batch_size: that of the run" in capsys.readouterr().out


def test_no_batch_fits(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(self: VQAModel, batch: Any, image: Any = None) -> Any:
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(VQAModel, "forward", full)
    with pytest.raises(ConfigError, match="memory is too small for a single image"):
        VQACLI(fit(data, tmp_path, "--run.find_batch_size=true"))


def test_a_search_changes_no_weights(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All images fit at once, so the search ends at half of what it did not try."""
    plain = VQACLI(fit(data, tmp_path / "a", "--trainer.max_epochs=1", "--data.images_per_batch=8"))
    found = VQACLI(
        fit(
            data, tmp_path / "b", "--trainer.max_epochs=1", "--data.images_per_batch=2",
            "--run.find_batch_size=true",
        )
    )  # fmt: skip
    assert found.datamodule.images_per_batch == 8
    assert (
        "8 (run.find_batch_size: no more were tried, since there are 9" in capsys.readouterr().out
    )
    for (name, first), second in zip(
        plain.model.model.state_dict().items(),
        found.model.model.state_dict().values(),
        strict=True,
    ):
        torch.testing.assert_close(first, second, rtol=0, atol=0, msg=name)


def test_a_step_is_measured_by_part(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(step_profile, "WARM_UP", 2)
    monkeypatch.setattr(step_profile, "MEASURED", 6)
    monkeypatch.setattr(step_profile, "TRACED", 2)
    added: Counter[str] = Counter()
    add, begin = StepProfile._add, VQATask.on_validation_epoch_start

    def counted(self: StepProfile, name: str, seconds: float) -> None:
        added[name] += 1
        add(self, name, seconds)

    clock = count()  # ticks when it is looked at

    def slowly(self: VQATask) -> None:
        for _ in range(1000):
            next(clock)
        begin(self)

    monkeypatch.setattr(step_profile, "perf_counter", lambda: float(next(clock)))

    monkeypatch.setattr(StepProfile, "_add", counted)
    monkeypatch.setattr(VQATask, "on_validation_epoch_start", slowly)
    cli = VQACLI(fit(data, tmp_path, "--run.profile=true"))
    printed = capsys.readouterr().out
    assert "Time of a step (mean of 6)" in printed
    for row in ("loader", "image encoder", "fusion", "head", "backward", "optimizer", "other"):
        assert row in printed
    times = json.loads((cli.run_folder / "step_times.json").read_text())["seconds"]
    assert all(value > 0 for value in times.values())
    assert len(set(added.values())) == 1, "once a step; validation is none"
    whole = times.pop("step")
    assert whole < 100, "validation is no part of a step"
    assert sum(times.values()) == pytest.approx(whole)
    events = json.loads((cli.run_folder / "trace.json").read_text())["traceEvents"]
    names = {event["name"] for event in events}
    assert {"image_encoder", "text_encoder", "fusion", "head", "backward", "optimizer"} <= names
    assert not cli.model.model.head._forward_hooks, "hooks are taken off"


@pytest.mark.parametrize(
    ("steps", "said"),
    [(5, "no profile, and no trace"), (6, "no trace:"), (25, "no trace:"), (26, "")],
)
def test_a_training_too_short_for_a_profile_says_so_at_its_start(
    steps: int, said: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = [f"--trainer.max_steps={steps}", "--trainer.max_epochs=-1"]
    cli = VQACLI(fit(data, tmp_path, "--run.profile=true", *limits))
    start = capsys.readouterr().out.partition("Trained ")[0]
    assert ("run.profile: there will be " in start) == bool(said)
    assert said in start
    assert (cli.run_folder / "step_times.json").exists() == (steps > 5)
    assert (cli.run_folder / "trace.json").exists() == (steps > 25)


# torch looks at gradients of what the parts hand on, and keeps its own warning about that quiet.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.slow
def test_compiled_parts_train_as_others_do(data: Path, tmp_path: Path) -> None:
    options = [
        f"--model.image_encoder={ROOT}/configs/image/vit.yaml",
        "--model.fusion.merge.dropout=0",
        "--trainer.max_epochs=1",
        # Adam turns the rounding of a gradient near zero into a whole step.
        "--model.optimizer=torch.optim.SGD",
        "--model.optimizer.lr=0.03",
    ]
    plain = VQACLI(fit(data, tmp_path / "a", *options))
    compiled = VQACLI(fit(data, tmp_path / "b", *options, "--run.compile=[image_encoder,fusion]"))
    first, second = (cli.model.model.state_dict() for cli in (plain, compiled))
    assert first.keys() == second.keys(), "weights keep their names"
    for name, weight in first.items():
        torch.testing.assert_close(second[name], weight, rtol=1e-3, atol=1e-5, msg=name)
    assert vlm.load(compiled.run_folder).answer(data / "test/images/0.png", "is it red?").text
