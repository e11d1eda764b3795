"""Only one training per folder at a time; and extending a run beyond its planned length."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from pathlib import Path

import pytest
from conftest import ROOT
from training_runs import ENVIRONMENT, assert_same, callback, command, fit, outcome, run

from vlm.cli.main import main
from vlm.cli.training_cli import VQACLI
from vlm.training.run_lock import training_in


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str], code: int) -> str:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == code
    said = capsys.readouterr().err
    return next(line for line in said.splitlines() if line.startswith("vlm"))


def test_a_second_training_is_refused_with_the_first_one_s_place(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlm.training.run_lock.SECONDS", 0.1)
    told = fit(data, tmp_path, "--run.resume=auto", "--trainer.max_epochs=1")
    folder = VQACLI(told).run_folder
    log = (folder / "metrics.csv").read_bytes()
    with training_in(folder):
        for asked in (told, [*told, "--run.resume=null", f"--ckpt_path={folder}"]):
            said = refused(asked, capsys, 2)
            who = f"process {os.getpid()} on {socket.gethostname()} trains there"
            assert f"{folder}: got a second training, while {who}; expected one." in said
    assert (folder / "metrics.csv").read_bytes() == log
    VQACLI(told)  # the lock is released; its leftover file does not matter


def test_the_lock_of_an_older_one_does_not_name_it(tmp_path: Path) -> None:
    (tmp_path / "training.lock").write_text("process 1 on another machine")
    with training_in(tmp_path):
        assert str(os.getpid()) in (tmp_path / "training.lock").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_training_leaves_no_lock(workers: int, data: Path, tmp_path: Path) -> None:
    told = fit(data, tmp_path, f"--data.workers={workers}")
    strike = callback("Strike", what="hang", hook="on_train_batch_start", step=7)
    process = subprocess.Popen(command([*told, *strike]), env=ENVIRONMENT, cwd=ROOT)
    try:
        while not (files := list(tmp_path.rglob("last.ckpt"))):
            assert process.poll() is None
            time.sleep(0.1)
        folder = files[0].parents[1]
        told.append(f"--ckpt_path={folder}")
        done = run(told)
        assert done.returncode == 2
        assert f"while process {process.pid} on {socket.gethostname()} trains" in done.stderr
    finally:
        process.kill()
        process.wait()
    start = time.monotonic()
    with training_in(folder):
        assert time.monotonic() - start < 6
    done = run(told)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_folder_that_cannot_be_written(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read-only file system is simulated: the tests may run as root, who can write elsewhere."""
    make = Path.mkdir

    def mkdir(path: Path, *rest: object, **options: object) -> None:
        if tmp_path / "closed" in (path, *path.parents):
            raise OSError(30, "Read-only file system", str(path))
        make(path, *rest, **options)  # type: ignore[arg-type]  # any options

    monkeypatch.setattr(Path, "mkdir", mkdir)
    said = refused(fit(data, tmp_path / "closed"), capsys, 1)
    assert re.search(
        r"closed.*: cannot be .*written \(Read-only file system\)\. .*run\.folder", said
    )


@pytest.mark.parametrize(
    "schedule",
    [
        ["--model.schedule=null"],
        pytest.param(
            ["--model.schedule=vlm.training.schedule.WarmupSteps", "--model.schedule.warmup=1"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_run_goes_on_for_longer_as_if_it_had_been_meant_to(
    schedule: list[str], data: Path, tmp_path: Path
) -> None:
    short = VQACLI(fit(data, tmp_path / "a", *schedule, "--trainer.max_epochs=2")).run_folder
    VQACLI(fit(data, tmp_path, *schedule, "--trainer.max_epochs=4", f"--ckpt_path={short}"))
    whole = VQACLI(fit(data, tmp_path / "b", *schedule, "--trainer.max_epochs=4")).run_folder
    assert_same(outcome(whole), outcome(short))


def test_a_schedule_that_spans_the_training_is_refused_with_a_way(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = VQACLI(fit(data, tmp_path / "a", "--trainer.max_epochs=1")).run_folder
    with pytest.raises(SystemExit):
        main(fit(data, tmp_path, "--trainer.max_epochs=2", f"--ckpt_path={done}"))
    said = capsys.readouterr().err
    assert "trainer.max_epochs: 1 in the checkpoint, 2 asked; WarmupCosine spans the whole" in said
    assert "--model.tuning.init_from=CHECKPOINT instead of --ckpt_path" in said
    way = f"--model.tuning.init_from={done}/checkpoints/last.ckpt"
    assert VQACLI(fit(data, tmp_path, "--trainer.max_epochs=1", way)).trainer.global_step == 5
