"""Gradual unfreezing and LoRA in several processes: same results as one process, and resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import write_data
from training_runs import STRATEGIES, check_a_killed_run_goes_on, fit, only_run, together

from vlm.cli.training_cli import VQACLI

pytestmark = pytest.mark.slow
# Frozen, since each process computes batch normalisation statistics from its own images.
TUNING = [
    "--model.tuning.image_encoder.frozen=true",
    "--model.tuning.text_encoder.from_epoch=1",
    "--model.tuning.text_encoder.layers_per_epoch=1",
    "--model.tuning.text_encoder.layer_decay=0.5",
    "--model.fusion.merge.dropout=0",
]
LORA = [
    "--model.tuning.image_encoder.lora.rank=2",
    "--model.tuning.image_encoder.from_epoch=1",
    "--model.fusion.merge.dropout=0",
]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    path = only_run(folder) / "checkpoints/last.ckpt"
    return torch.load(path, weights_only=True)["state_dict"]


@pytest.mark.parametrize("told", [TUNING, LORA], ids=["layers that join", "lora"])
def test_two_processes_come_to_the_numbers_of_one(told: list[str], tmp_path: Path) -> None:
    """15 training images make batches of 4 and a last one of 3. Adam would hide a wrongly scaled
    gradient, so this uses plain SGD."""
    data = write_data(tmp_path / "data", images=26)
    told = [*told, "--dataset.validation_share=0.23"]
    told += ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.1"]
    commands = [
        fit(data, tmp_path / name, *told, *strategy, "--data.images_per_batch=2")
        for name, strategy in STRATEGIES.items()
    ]
    together(commands, tmp_path)
    VQACLI(fit(data, tmp_path / "one", *told, "--data.images_per_batch=4"))
    one = weights(tmp_path / "one")
    for strategy in STRATEGIES:
        two = weights(tmp_path / strategy)
        assert one.keys() == two.keys()
        for name, value in one.items():
            difference = (two[name] - value).abs().max().item()
            assert difference <= 1e-6, (strategy, name)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_killed_run_goes_on_exactly(strategy: str, data: Path, tmp_path: Path) -> None:
    check_a_killed_run_goes_on(data, tmp_path, [*TUNING, *STRATEGIES[strategy]])
