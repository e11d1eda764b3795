"""A checkpoint file is complete or absent, and a damaged one is reported."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import ENVIRONMENT, assert_same

from vlm.checkpoint.file import (
    CheckpointError,
    newest_whole,
    read_checkpoint_file,
    write_checkpoint,
)
from vlm.training.fault_tolerance.checkpoint_dir import BEST, LAST, CheckpointFolder


def content(value: float = 1.0, size: int = 7) -> dict[str, Any]:
    return {"state_dict": {"w": torch.full((size, 3), value)}, "step": 5}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "step-00000005.ckpt"
    write_checkpoint(content(), path)
    assert_same(read_checkpoint_file(path), content())
    names = {file.name for file in path.parent.iterdir()}
    assert names == {path.name, f"{path.name}.sha256"}
    checked = subprocess.run(
        ["sha256sum", "-c", f"{path.name}.sha256"], cwd=path.parent, capture_output=True, check=True
    )
    assert checked.stdout.decode().strip() == f"{path.name}: OK"


def test_what_schedules_and_callbacks_keep_is_read(tmp_path: Path) -> None:
    schedule = torch.optim.lr_scheduler.MultiStepLR(torch.optim.SGD([torch.ones(1)]), [2, 3])
    kept = {"seen": {1, 2}, "where": torch.device("cpu"), "schedule": schedule.state_dict()}
    spectral = {"state_dict": {"w": torch.ones(2, dtype=torch.complex64)}}
    write_checkpoint(spectral | {"callbacks": kept}, tmp_path / "a.ckpt")
    assert_same(read_checkpoint_file(tmp_path / "a.ckpt"), spectral | {"callbacks": kept})


def test_a_flipped_bit_is_found_and_the_last_good_one_offered(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    for step in (3, 4):
        write_checkpoint(content(float(step)), folder.file(step))
        os.utime(folder.file(step), (step, step))
        folder.link(LAST, step)
    whole = bytearray(folder.file(4).read_bytes())
    position = whole.index(torch.full((1,), 4.0).numpy().tobytes())
    whole[position] ^= 1
    folder.file(4).write_bytes(whole)
    assert torch.load(folder.file(4), weights_only=True)["step"] == 5, "torch itself sees nothing"
    with pytest.raises(
        CheckpointError, match=r"last\.ckpt: damaged.*step-00000003\.ckpt is intact"
    ):
        read_checkpoint_file(tmp_path / LAST)
    broken: list[CheckpointError] = []
    assert newest_whole(tmp_path, broken) == folder.file(3)
    assert len(broken) == 1


def test_a_lost_checksum_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "step-00000001.ckpt"
    write_checkpoint(content(), path)
    path.with_name(f"{path.name}.sha256").unlink()
    wanted = (
        r"step-00000001\.ckpt: its content cannot be verified, since there is no "
        r"step-00000001\.ckpt\.sha256 beside it; copy both\."
    )
    with pytest.warns(UserWarning, match=wanted):
        found = read_checkpoint_file(path)
    assert_same(found, content())
    assert_same(read_checkpoint_file(path), content())  # a second warning would be an error


def test_a_link_that_became_a_copy_is_verified(tmp_path: Path) -> None:
    """Some file systems have no links, and some copies of a folder follow them."""
    folder = CheckpointFolder(tmp_path)
    for step in (3, 4):
        write_checkpoint(content(float(step)), folder.file(step))
    best = tmp_path / BEST
    best.write_bytes(folder.file(3).read_bytes())
    assert_same(read_checkpoint_file(best), content(3.0))
    write_checkpoint(content(5.0), tmp_path / "elsewhere" / BEST)
    best.write_bytes((tmp_path / "elsewhere" / BEST).read_bytes())
    with pytest.warns(UserWarning, match=r"best\.ckpt: its content cannot be verified"):
        read_checkpoint_file(best)


@pytest.mark.parametrize("share", [0, 0.3, 0.99])
def test_a_truncated_file_is_named(share: float, tmp_path: Path) -> None:
    path = tmp_path / "step-00000001.ckpt"
    write_checkpoint(content(), path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(CheckpointError, match=r"step-00000001\.ckpt: (damaged|the file is empty)"):
        read_checkpoint_file(path)
    # The same without its checksum.
    path.with_name(f"{path.name}.sha256").unlink()
    with pytest.raises(CheckpointError, match=r"step-00000001\.ckpt: (damaged|the file is empty)"):
        read_checkpoint_file(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_neither_written_nor_read(
    value: float, tmp_path: Path
) -> None:
    path = tmp_path / "step-00000001.ckpt"
    with pytest.raises(CheckpointError, match=r"not written, since w is not finite"):
        write_checkpoint(content(value), path)
    assert not list(tmp_path.iterdir())
    torch.save(content(value), path)
    with pytest.raises(CheckpointError, match=r"step-00000001\.ckpt: w is not finite"):
        read_checkpoint_file(path)


def test_a_full_disk_leaves_the_older_ones(tmp_path: Path) -> None:
    """A file size limit simulates the full disk: the same calls fail, even part-way through."""
    old, new = tmp_path / "step-00000001.ckpt", tmp_path / "step-00000002.ckpt"
    write_checkpoint(content(), old)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
        with pytest.raises(CheckpointError, match=r"step-00000002\.ckpt: cannot be written \(File"):
            write_checkpoint(content(size=100_000), new)
        with pytest.raises(CheckpointError, match=r"step-00000001\.ckpt: cannot be written"):
            write_checkpoint(content(size=100_000), old)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert {file.name for file in tmp_path.iterdir()} == {old.name, f"{old.name}.sha256"}
    assert_same(read_checkpoint_file(old), content())


WRITER = """
import sys, torch
from pathlib import Path
from vlm.checkpoint.file import write_checkpoint
from vlm.training.fault_tolerance.checkpoint_dir import LAST, CheckpointFolder
folder = CheckpointFolder(Path(sys.argv[1]))
for step in range(1, 10000):
    write_checkpoint({"state_dict": {"w": torch.full((400_000,), float(step))}}, folder.file(step))
    folder.link(LAST, step)
    folder.tidy()
    print(step, flush=True)
"""


# A kill between the two writes leaves a checkpoint without its checksum.
@pytest.mark.filterwarnings("ignore:.* its content cannot be verified")
@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_a_whole_last_checkpoint(tmp_path: Path) -> None:
    """The temporary folder is on another file system if one is available."""
    other = Path("/dev/shm") if Path("/dev/shm").is_dir() else tmp_path
    for delay in (0.001, 0.004, 0.007, 0.011, 0.017):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)],
            env=ENVIRONMENT | {"TMPDIR": str(other)},
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            said = [int(process.stdout.readline()) for _ in range(3)]
            time.sleep(delay)
            process.kill()
            said += [int(line) for line in process.stdout.read().split()]
        step = int(read_checkpoint_file(tmp_path / LAST)["state_dict"]["w"][0])
        assert step >= said[-1]


def test_the_newest_two_the_best_and_the_last_stay(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    for step in range(1, 7):
        write_checkpoint(content(float(step)), folder.file(step))
        folder.link(LAST, step)
        if step in (1, 2):
            folder.link(BEST, step)
        (tmp_path / "step-00000009.ckpt.7.part").write_bytes(b"half")
        folder.tidy()
    steps = {2, 5, 6}
    wanted = {f"step-{step:08d}.ckpt{suffix}" for step in steps for suffix in ("", ".sha256")}
    assert {file.name for file in tmp_path.iterdir()} == wanted | {BEST, LAST}
    assert float(read_checkpoint_file(tmp_path / BEST)["state_dict"]["w"][0, 0]) == 2
    assert float(read_checkpoint_file(tmp_path / LAST)["state_dict"]["w"][0, 0]) == 6


def test_a_damaged_file_names_none_of_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of(run: str) -> dict[str, Any]:
        return content() | {"vlm": {"about": {"run": f"runs/{run}"}}}

    broken = tmp_path / "step-00000005.ckpt"
    write_checkpoint(of("mine"), broken)
    broken.write_bytes(broken.read_bytes()[:-9])
    write_checkpoint(of("other"), tmp_path / "step-00000007.ckpt")
    write_checkpoint(of("mine"), tmp_path / "downloaded.ckpt")
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint_file(broken)
    assert "is intact" not in str(caught.value)
    write_checkpoint(of("mine"), tmp_path / "step-00000003.ckpt")
    opened: list[object] = []
    load = torch.load
    monkeypatch.setattr(
        torch, "load", lambda file, **rest: opened.append(file) or load(file, **rest)
    )
    with pytest.raises(CheckpointError, match=r"step-00000003\.ckpt is intact"):
        read_checkpoint_file(broken)
    assert not opened
