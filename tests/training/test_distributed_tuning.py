"""Layers that join, and LoRA, in several processes: the numbers of one process, and continued."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import write_data
from runs import ENVIRONMENT, HERE, assert_same, callback, fit, only_run, outcome, run

from vlm.training.cli import VQACLI

pytestmark = pytest.mark.slow
STRATEGIES = {
    "ddp": ["--trainer.devices=2", "--trainer.strategy=ddp"],
    "fsdp": [
        "--trainer.devices=2",
        "--trainer.strategy=lightning.pytorch.strategies.ModelParallelStrategy",
        "--trainer.strategy.data_parallel_size=2",
        "--trainer.strategy.tensor_parallel_size=1",
        "--trainer.strategy.save_distributed_checkpoint=false",
    ],
}
# Statistics of batch normalisation are those of each process's pictures, so it is frozen.
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
    """15 pictures to train on: batches of 4, the last of 3. Adam would hide a gradient that is a
    multiple of the right one, so this is plain descent."""
    data = write_data(tmp_path / "data", images=26)
    told = [*told, "--data.validation_share=0.23"]
    told += ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.1"]
    commands = [
        fit(data, tmp_path / name, *told, *strategy, "--data.images_per_batch=2")
        for name, strategy in STRATEGIES.items()
    ]
    (tmp_path / "commands.json").write_text(json.dumps(commands))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *launcher, str(HERE / "ranks.py"), str(tmp_path / "commands.json")],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
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
    told = [*TUNING, *STRATEGIES[strategy], "--data.images_per_batch=1"]
    told += ["--run.checkpoint_steps=2"]
    strike = callback("Strike", what="SIGKILL", hook="on_train_batch_start", step=8, rank=1)
    killed = run(fit(data, tmp_path / "a", *told, *strike), 2)
    assert killed.returncode == 1
    folder = only_run(tmp_path / "a")
    last = folder / "checkpoints/last.ckpt"
    assert last.resolve().name == "step-00000008.ckpt"
    again = run(fit(data, tmp_path, *told, f"--ckpt_path={last}"), 2)
    assert again.returncode == 0, again.stderr[-3000:]
    whole = run(fit(data, tmp_path / "whole", *told), 2)
    assert whole.returncode == 0, whole.stderr[-3000:]
    assert_same(outcome(only_run(tmp_path / "whole")), outcome(folder))
