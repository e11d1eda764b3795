"""On a signal, training saves a checkpoint at once, and the run resumes exactly from there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import rest_slow
from mishaps import Strike
from test_resume import EMA
from training_runs import ENVIRONMENT, assert_same, callback, command, fit, only_run, outcome, run

from vlm.cli.training_cli import VQACLI
from vlm.core.errors import ConfigError
from vlm.training.fault_tolerance.signals import Preempted

pytestmark = pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback")
# When the signal comes, the step that is then saved, and further arguments of the run.
MOMENTS = {
    "in a batch": ({"hook": "on_train_batch_start", "step": 7}, 8, []),
    "in the last batch of an epoch": ({"hook": "on_train_batch_start", "step": 9}, 10, []),
    "in a validation": ({"hook": "on_validation_batch_start", "step": 10, "batch": 1}, 10, []),
    "in a validation in mid-epoch": (
        {"hook": "on_validation_batch_start", "step": 7, "batch": 0},
        7,
        ["--trainer.val_check_interval=2"],
    ),
    "in a validation of averaged weights": (
        {"hook": "on_validation_batch_start", "step": 10, "batch": 0},
        10,
        EMA,
    ),
    "between accumulated gradients": (
        {"hook": "on_train_batch_start", "step": 4, "batch": 2},
        5,
        ["--trainer.accumulate_grad_batches=2"],
    ),
    "in the last validation": ({"hook": "on_validation_batch_start", "step": 15}, 15, []),
}


@pytest.mark.parametrize("name", rest_slow(MOMENTS, "in a validation of averaged weights"))
def test_a_signal_saves_and_the_run_goes_on(name: str, data: Path, tmp_path: Path) -> None:
    moment, step, told = MOMENTS[name]
    whole = VQACLI(fit(data, tmp_path / "whole", *told)).run_folder
    signal_name = "SIGUSR1" if "batch" in moment else "SIGTERM"
    struck = fit(data, tmp_path / "a", *told, *callback("Strike", what=signal_name, **moment))
    with pytest.raises(Preempted, match=f"stopped by {signal_name} after step {step}"):
        VQACLI(struck)
    folder = only_run(tmp_path / "a")
    assert (folder / "checkpoints/last.ckpt").resolve().name == f"step-{step:08d}.ckpt"
    VQACLI(fit(data, tmp_path, *told, f"--ckpt_path={folder / 'checkpoints/last.ckpt'}"))
    assert_same(outcome(whole), outcome(folder))


def test_the_same_command_goes_on_with_resume_auto(data: Path, tmp_path: Path) -> None:
    """A different configuration starts a new run instead."""
    told = fit(data, tmp_path, "--run.resume=auto", *callback("Strike", what="SIGTERM", step=7))
    struck = [*told, "--trainer.callbacks.hook=on_train_batch_start"]
    with pytest.raises(Preempted, match=r"To continue, run the same command$"):
        VQACLI(struck)
    again = VQACLI(struck)  # from step 8, so the strike at step 7 is not repeated
    assert isinstance(again.trainer.callbacks[0], Strike)
    assert again.trainer.global_step == 15
    assert only_run(tmp_path) == again.run_folder
    other = VQACLI([*told, "--trainer.callbacks.hook=on_test_start", "--data.seed=3"])
    assert other.run_folder != again.run_folder


@pytest.mark.parametrize(
    ("interval", "change"),
    [
        (["--trainer.val_check_interval=3"], "the interval a multiple of 2"),
        (
            ["--trainer.val_check_interval=8", "--trainer.check_val_every_n_epoch=null"],
            "the interval and the epoch a multiple of 2",
        ),
    ],
)
def test_a_validation_between_accumulated_gradients_is_refused(
    interval: list[str], change: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"an epoch of 5 and .*Make {change}"):
        VQACLI(fit(data, tmp_path, "--trainer.accumulate_grad_batches=2", *interval))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "workers"), [("one process", 2), ("rank 0", 0), ("rank 1", 2), ("all", 2)]
)
def test_every_process_ends_with_75(target: str, workers: int, data: Path, tmp_path: Path) -> None:
    """The signal comes during validation; loader workers may get it too."""
    processes = 1 if target == "one process" else 2
    told = [
        *([] if processes == 1 else ["--trainer.devices=2", "--trainer.strategy=ddp"]),
        f"--data.workers={workers}",
        "--data.images_per_batch=1",
    ]
    marker, output = tmp_path / "validation", tmp_path / "said"
    slow = callback("Slow", seconds=2, marker=marker)
    with (
        output.open("w") as stderr,
        subprocess.Popen(
            command(fit(data, tmp_path / "a", *told, *slow), processes),
            env=ENVIRONMENT,
            stderr=stderr,
            start_new_session=True,
        ) as started,
    ):
        deadline = time.monotonic() + 600
        while not marker.exists() and started.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        ranks = trainers(started.pid)
        assert len(ranks) == processes
        if target == "all":
            os.killpg(started.pid, signal.SIGTERM)
        else:
            os.kill(ranks[1 if target == "rank 1" else 0], signal.SIGTERM)
        struck = time.monotonic()
        while any(map(lives, ranks)) and time.monotonic() < struck + 60:
            started.poll()  # reap the process, or it would stay as a zombie
            time.sleep(0.05)
        seconds = time.monotonic() - struck
        started.wait(timeout=60)
    said = output.read_text()
    if processes == 1:  # the launcher prints one
        assert "Traceback" not in said, said[-3000:]
    assert seconds < 10, said[-3000:]
    assert said.count("vlm: stopped by ") == processes, said[-3000:]
    assert started.returncode == (75 if processes == 1 else 1), said[-3000:]
    codes = re.findall(r"exitcode +: (-?\d+)", said)
    assert set(codes) <= {"75"}, said[-3000:]
    # A single process has no launcher, and a launcher that is signalled reports no exit codes.
    assert codes or target in ("one process", "all"), said[-3000:]
    folder = only_run(tmp_path / "a")
    last = folder / "checkpoints/last.ckpt"
    steps = 9 if processes == 1 else 5
    assert last.resolve().name == f"step-{steps:08d}.ckpt"
    if target == "all":
        assert run(fit(data, tmp_path, *told, f"--ckpt_path={last}"), processes).returncode == 0
        assert run(fit(data, tmp_path / "whole", *told), processes).returncode == 0
        assert_same(outcome(only_run(tmp_path / "whole")), outcome(folder))


def lives(pid: int) -> bool:
    """Whether a process is still running."""
    return Path(f"/proc/{pid}").exists()


def trainers(parent: int) -> list[int]:
    """The process ids of torchrun's children by rank, or just `parent` if it has none."""
    text = subprocess.run(
        ["pgrep", "-P", str(parent), "-f", "vlm fit"], capture_output=True, text=True, check=False
    ).stdout
    found = sorted(map(int, text.split()))
    ranks = {}
    for pid in found:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        ranks |= {int(e[11:]): pid for e in environment if e.startswith(b"LOCAL_RANK=")}
    return [ranks[rank] for rank in sorted(ranks)] or [parent]
