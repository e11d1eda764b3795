"""Several machines, simulated by two torchrun launches on the loopback interface."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import ROOT, write_data
from training_runs import DDP, ENVIRONMENT, assert_same, callback, fit, only_run, outcome, run

pytestmark = pytest.mark.slow
NODES = ["--trainer.devices=1", "--trainer.num_nodes=2", "--trainer.strategy=ddp"]


class Ended(NamedTuple):
    """How a machine's launch ended; `at` is in seconds of `time.monotonic`."""

    code: int
    said: str
    at: float


def two_machines(
    arguments: list[str],
    folders: Sequence[Path] = (ROOT, ROOT),
    delays: Sequence[float] = (0.0, 0.0),
    dynamic: bool = False,
    processes: int = 1,
) -> list[Ended]:
    """Run a command on two simulated machines.

    Args:
        arguments: of `vlm`, the same on both machines.
        folders: working folder of each machine.
        delays: seconds to wait before starting each machine.
        dynamic: whether the machines agree on their ranks themselves.
        processes: number of processes on each machine.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2"]
    launcher += [f"--nproc-per-node={processes}"]
    if dynamic:
        launcher += ["--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{port}", "--rdzv-id=1"]
    else:
        launcher += ["--master-addr=127.0.0.1", f"--master-port={port}"]
    started = []
    for rank, (folder, delay) in enumerate(zip(folders, delays, strict=True)):
        time.sleep(delay)
        own = [] if dynamic else [f"--node-rank={rank}"]
        started.append(
            subprocess.Popen(
                [*launcher, *own, "-m", "vlm", *arguments],
                env=ENVIRONMENT,
                cwd=folder,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    ends: dict[int, float] = {}
    limit = time.monotonic() + 1200
    while len(ends) < 2 and time.monotonic() < limit:
        for rank, machine in enumerate(started):
            if rank not in ends and machine.poll() is not None:
                ends[rank] = time.monotonic()
        time.sleep(0.1)
    for machine in started:
        machine.kill()
    said = [machine.communicate()[1] for machine in started]
    return [
        Ended(machine.returncode, text, ends.get(rank, float("inf")))
        for rank, (machine, text) in enumerate(zip(started, said, strict=True))
    ]


@pytest.fixture
def disks(tmp_path: Path) -> tuple[Path, Path]:
    """One folder for each machine, with the same data in `data`."""
    machines = tmp_path / "first", tmp_path / "second"
    for machine in machines:
        write_data(machine / "data")
    return machines


def test_two_machines_are_two_processes(data: Path, tmp_path: Path) -> None:
    ended = two_machines(fit(data, tmp_path / "nodes", *NODES, "--data.images_per_batch=1"))
    assert [one.code for one in ended] == [0, 0], ended
    same = run(fit(data, tmp_path / "one", *DDP, "--data.images_per_batch=1"), 2)
    assert same.returncode == 0
    assert_same(outcome(only_run(tmp_path / "nodes")), outcome(only_run(tmp_path / "one")))


def test_machines_that_left_different_images_out_all_end(
    disks: tuple[Path, Path], tmp_path: Path
) -> None:
    (disks[1] / "data/train/images/4.png").unlink()
    told = [*NODES, "--data.images.skip_unreadable=1"]
    ended = two_machines(fit(Path("data"), tmp_path / "runs", *told), disks)
    message = (
        r"^vlm: data\.images\.skip_unreadable: got \d+ (train|validation) questions whose "
        r"images the first process could read, and {}; expected the same\. Make sure that all "
        r"machines have the same images\.$"
    )
    others = "others in another one", r"\d+ or other ones here"
    for one, other in zip(ended, others, strict=True):
        assert one.code == 1, one
        assert re.search(message.replace("{}", other), one.said, re.MULTILINE), one


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "c10d"])
@pytest.mark.parametrize("broken", [0, 1])
def test_what_one_machine_lacks_ends_all(
    broken: int, dynamic: bool, disks: tuple[Path, Path], tmp_path: Path
) -> None:
    """It fails before the machines have connected, and both print the reason."""
    shutil.rmtree(disks[broken] / "data/train")
    ended = two_machines(fit(Path("data"), tmp_path, *NODES), disks, dynamic=dynamic)
    reason = r"data/train/questions\.json: there is no such file"
    assert [one.code for one in ended] == [1, 1], ended
    assert re.search(rf"^vlm: {reason}", ended[broken].said, re.MULTILINE), ended
    other = rf"^vlm: process \d on \S+ has failed: vlm: {reason}"
    assert re.search(other, ended[1 - broken].said, re.MULTILINE), ended
    assert abs(ended[0].at - ended[1].at) < 30


def test_all_processes_of_all_machines_end(disks: tuple[Path, Path], tmp_path: Path) -> None:
    """A process blocked in torch ignores signals, and torchrun waits half a minute for it."""
    shutil.rmtree(disks[1] / "data/train")
    told = ["--trainer.devices=2", *NODES[1:]]
    ended = two_machines(fit(Path("data"), tmp_path, *told), disks, processes=2)
    assert [one.code for one in ended] == [1, 1], ended
    # torchrun may end the second process of this machine before it has said so too.
    assert re.search("^vlm: process [23] on .* has failed: ", ended[0].said, re.MULTILINE), ended
    assert abs(ended[0].at - ended[1].at) < 30


def test_a_machine_that_comes_late_still_hears_why(
    disks: tuple[Path, Path], tmp_path: Path
) -> None:
    """The first machine hosts the store with the reason, and waits for the second."""
    shutil.rmtree(disks[0] / "data/train")
    ended = two_machines(fit(Path("data"), tmp_path, *NODES), disks, delays=(0.0, 8.0))
    assert [one.code for one in ended] == [1, 1], ended
    assert "there is no such file" in ended[1].said, ended


@pytest.mark.parametrize("other", ["waits", "hangs"])
def test_an_error_of_one_machine_in_the_training_ends_all(
    other: str, data: Path, tmp_path: Path
) -> None:
    fault = callback("Strike", what="raise", hook="on_train_batch_start", step=4, rank=1)
    if other == "hangs":
        fault += callback("Strike", what="hang", hook="on_train_batch_start", step=4, rank=0)
    ended = two_machines(fit(data, tmp_path, *NODES, *fault))
    assert [one.code for one in ended] == [1, 1], ended
    assert "Traceback" in ended[1].said, ended
    assert "mishaps.Mishap" in ended[1].said, ended
    assert re.search(r"^vlm: process 1 on \S+ has failed: Mishap", ended[0].said, re.M), ended
    assert abs(ended[0].at - ended[1].at) < 30


def test_a_signal_to_one_machine_before_they_have_met_ends_all(data: Path, tmp_path: Path) -> None:
    """The struck machine has nothing to save, and the other must not wait for it."""
    told = [*NODES, "--dataset=mishaps.SecondIsStruck", f"--dataset.root={data}"]
    ended = two_machines(fit(data, tmp_path, *told))
    assert [one.code for one in ended] == [1, 1], ended
    for one in ended:
        assert "stopped by SIGTERM while nothing was trained" in one.said, ended
    assert abs(ended[0].at - ended[1].at) < 30
