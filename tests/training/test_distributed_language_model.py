"""A language model in several processes: the numbers of one process, in both stages."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import write_data
from hub_vlms import vlm_folder
from training_runs import STRATEGIES, fit, only_run, together

from vlm.adapters import convert
from vlm.cli.training_cli import VQACLI

pytestmark = pytest.mark.slow
LORA = ["--model.tuning.head.lora.rank=2"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    path = only_run(folder) / "checkpoints/last.ckpt"
    return torch.load(path, weights_only=True)["state_dict"]


@pytest.mark.parametrize("more", [[], LORA], ids=["all", "lora"])
def test_two_processes_come_to_the_numbers_of_one(more: list[str], tmp_path: Path) -> None:
    """The connector is trained first. Adam would hide a wrongly scaled gradient: this uses SGD."""
    convert(vlm_folder(tmp_path / "theirs", "idefics3"), tmp_path / "theirs.ckpt")
    data = write_data(tmp_path / "data", images=26)
    told = ["-c", str(tmp_path / "theirs.yaml"), *more]
    told += ["--model.tuning.image_encoder.frozen=false"]
    told += ["--model.tuning.image_encoder.from_epoch=1", "--model.tuning.head.from_epoch=1"]
    told += ["--dataset.validation_share=0.23", "--trainer.max_epochs=2"]
    told += ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.01"]
    commands = []
    for name, strategy in STRATEGIES.items():
        commands.append(fit(data, tmp_path / name, *strategy, "--data.images_per_batch=2"))
    commands.append(fit(data, tmp_path / "one", "--data.images_per_batch=4"))
    # The default fusion, whose dropout `fit` sets, is another one.
    commands = [[*(a for a in c if "fusion.merge" not in a), *told] for c in commands]
    together(commands[:-1], tmp_path)
    VQACLI(commands[-1])
    one = weights(tmp_path / "one")
    assert any(".lora_" in name for name in one) == bool(more)
    for strategy in STRATEGIES:
        two = weights(tmp_path / strategy)
        assert one.keys() == two.keys()
        for name, value in one.items():
            difference = (two[name] - value).abs().max().item()
            assert difference <= 1e-5, (strategy, name)
