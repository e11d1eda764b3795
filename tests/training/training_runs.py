"""Short command-line runs, in this process, in another or in several."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from conftest import ROOT

HERE = Path(__file__).parent
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)]),
}
DDP = ["--trainer.devices=2", "--trainer.strategy=ddp"]
FSDP = [
    "--trainer.devices=2",
    "--trainer.strategy=lightning.pytorch.strategies.ModelParallelStrategy",
    "--trainer.strategy.data_parallel_size=2",
    "--trainer.strategy.tensor_parallel_size=1",
    "--trainer.strategy.save_distributed_checkpoint=false",
]
STRATEGIES = {"ddp": DDP, "fsdp": FSDP}
# No BatchNorm and no dropout; docs/distributed.md says what they do in several processes.
EXACT = [
    f"--model.image_encoder={ROOT}/configs/image/vit.yaml",
    f"--model.text_encoder={ROOT}/configs/text/transformer.yaml",
    "--model.fusion.merge.dropout=0",
    "--trainer.max_epochs=6",
]


def fit(data: Path, folder: Path, *more: str) -> list[str]:
    """Arguments of a small training run with dropout: 9 images, 5 batches an epoch, 3 epochs."""
    return [
        "fit",
        "-c",
        str(ROOT / "configs/easy_vqa.yaml"),
        f"--dataset.root={data}",
        "--data.images_per_batch=2",
        "--dataset.validation_share=0.25",
        "--data.images.in_memory=false",
        "--model.fusion.merge.dropout=0.3",
        f"--run.folder={folder}",
        "--run.test=false",
        "--trainer.max_epochs=3",
        "--trainer.log_every_n_steps=2",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        *more,
    ]


def callback(name: str, **arguments: Any) -> list[str]:
    """Arguments that add a callback, from `mishaps` unless the name has a dot."""
    options = [f"--trainer.callbacks.{key}={value}" for key, value in arguments.items()]
    return [f"--trainer.callbacks+={name if '.' in name else 'mishaps.' + name}", *options]


def command(arguments: list[str], processes: int = 1) -> list[str]:
    """The command line; several processes are started with torchrun on a free port."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [sys.executable, *(launcher if processes > 1 else []), "-m", "vlm", *arguments]


def run(
    arguments: list[str], processes: int = 1, timeout: float = 1200
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; the caller checks the exit code."""
    return subprocess.run(
        command(arguments, processes),
        env=ENVIRONMENT,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def seconds_since(said: str) -> float:
    """Seconds since `mishaps` struck, from the output; call it as soon as the command ends."""
    return time.time() - float(re.findall(r"struck at (\S+)", said)[-1])


def only_run(folder: Path) -> Path:
    """The only run in a folder."""
    (config,) = folder.rglob("config.yaml")
    return config.parent


def outcome(run: Path) -> dict[str, Any]:
    """The whole result of a training run: weights, optimiser state, schedule, counters, best
    checkpoint and log."""
    content = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    # Counts the validation batches of an epoch, and is only used within a validation.
    del content["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]["total"]
    parts = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks", "global_step")
    return {
        **{name: content[name] for name in parts},
        "best": (run / "checkpoints/best.ckpt").resolve().name,
        "metrics": (run / "metrics.csv").read_text(),
    }


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Compare bit for bit, through nested containers."""
    if isinstance(one, tuple):
        one = list(one)  # FSDP2's strategy gives the optimiser's pairs back as lists
    other = list(other) if isinstance(other, tuple) else other
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}[{number}]")
    elif isinstance(one, torch.Tensor):
        torch.testing.assert_close(
            one, other, rtol=0, atol=0, equal_nan=True, msg=lambda text: f"{where}: {text}"
        )
    else:
        assert one == other, where


def together(commands: list[list[str]], folder: Path, delay: float = 0.0) -> None:
    """Run several commands, one after the other, in the same two processes.

    Args:
        commands: arguments of each command.
        folder: where the list of commands is written.
        delay: seconds by which the second process starts late.
    """
    path = folder / "commands.json"
    path.write_text(json.dumps(commands))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launcher, str(HERE / "ranks.py"), str(path), str(delay)],
        env=ENVIRONMENT,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=12000,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def check_a_killed_run_goes_on(data: Path, folder: Path, told: list[str]) -> None:
    """Kill one of two processes: the other ends soon, and the run resumes exactly.

    Args:
        data: the training data.
        folder: where the runs are written.
        told: arguments for every run.
    """
    told = [*told, "--data.images_per_batch=1", "--run.checkpoint_steps=2"]
    strike = callback("Strike", what="SIGKILL", hook="on_train_batch_start", step=8, rank=1)
    killed = run(fit(data, folder / "a", *told, *strike), 2)
    seconds = seconds_since(killed.stderr)
    assert killed.returncode == 1
    assert seconds < 30
    assert "vlm: another process has ended" in killed.stderr
    assert "Signal 9 (SIGKILL)" in killed.stderr  # the launcher's report
    struck = only_run(folder / "a")
    last = struck / "checkpoints/last.ckpt"
    assert last.resolve().name == "step-00000008.ckpt"
    again = run(fit(data, folder, *told, f"--ckpt_path={last}"), 2)
    assert again.returncode == 0, again.stderr[-3000:]
    whole = run(fit(data, folder / "whole", *told), 2)
    assert whole.returncode == 0, whole.stderr[-3000:]
    assert_same(outcome(only_run(folder / "whole")), outcome(struck))
