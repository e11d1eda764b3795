"""Finished runs are kept, a failure does not stop the others, and no run outlives its parent."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from vlm.studies.comparison.runs import (
    FINISHED,
    LOG,
    PLAN,
    Planned,
    Run,
    environments,
    plan_run,
    start,
    train,
)

CONFIG: dict[str, Any] = {
    "seed_everything": 0,
    "dataset": {"init_args": {}},
    "data": {},
    "run": {},
    "trainer": {"max_epochs": 9},
}


def runs(folder: Path, names: str = "abc") -> list[Run]:
    return [plan_run(name, CONFIG, 0, folder) for name in names]


def script(text: str) -> Any:
    """A `begin` for `train` that runs this Python script in the run's folder instead."""

    def begin(run: Run, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        run.folder.mkdir(parents=True, exist_ok=True)
        with (run.folder / LOG).open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-c", text, run.name],
                cwd=run.folder,
                env=environment,
                stdout=log,
                stderr=log,
            )

    return begin


def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def said(shown: Console) -> str:
    assert isinstance(shown.file, io.StringIO)
    return shown.file.getvalue()


def test_finished_runs_are_kept_and_a_failure_does_not_stop_the_others(tmp_path: Path) -> None:
    first, *_ = todo = runs(tmp_path)
    first.folder.mkdir(parents=True)
    (first.folder / FINISHED).write_text('{"run": "earlier"}')
    shown = console()
    text = f"""
import pathlib, sys
assert sys.argv[1] != "b", "out of luck [really]"
pathlib.Path("{FINISHED}").write_text('{{"run": "now"}}')
"""
    failures = train(Planned(todo), environments(1, 4, ()), shown, script(text))
    assert [failure.run.name for failure in failures] == ["b"]
    assert failures[0].reason == "AssertionError: out of luck [really]"
    assert first.results == first.folder / "earlier"
    assert not (first.folder / LOG).exists(), "it was begun again"
    assert todo[2].results == todo[2].folder / "now"
    assert "3 runs, of which 1 finished earlier" in said(shown)
    assert "all runs" not in said(shown), "a progress bar, although this is no terminal"
    assert f"b, seed 0: FAILED. {failures[0].log}: AssertionError: out of luck [really]" in said(
        shown
    )


def test_as_many_at_a_time_as_there_are_shares(tmp_path: Path) -> None:
    text = f"""
import os, pathlib, time
here = pathlib.Path("..", "..", "working")
here.mkdir(exist_ok=True)
mine = here / str(os.getpid())
mine.write_text(os.environ["OMP_NUM_THREADS"])
time.sleep(0.6)
pathlib.Path("seen").write_text(str(len(list(here.iterdir()))))
mine.unlink()
pathlib.Path("{FINISHED}").write_text('{{"run": ""}}')
"""
    todo = runs(tmp_path, "abcd")
    assert not train(Planned(todo), environments(2, 4, ()), console(), script(text))
    seen = [int((run.folder / "seen").read_text()) for run in todo]
    assert max(seen) == 2


def test_threads_and_gpus_are_shared_out() -> None:
    one = environments(3, 8, ["0", "1"])
    assert [share["OMP_NUM_THREADS"] for share in one] == ["2", "2", "2"]
    assert [share["CUDA_VISIBLE_DEVICES"] for share in one] == ["0", "1", "0"]
    [alone] = environments(1, 8, ["4", "6"])
    assert alone["CUDA_VISIBLE_DEVICES"] == "4,6"
    assert environments(9, 2, ())[0]["OMP_NUM_THREADS"] == "1"


def test_an_interruption_ends_what_is_running(tmp_path: Path) -> None:
    begun: list[subprocess.Popen[bytes]] = []
    sleeping = script("import time; time.sleep(60)")

    def begin(run: Run, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        if begun:
            raise KeyboardInterrupt
        begun.append(sleeping(run, environment))
        return begun[0]

    with pytest.raises(KeyboardInterrupt):
        train(Planned(runs(tmp_path)), environments(2, 2, ()), console(), begin)
    assert begun[0].returncode == -signal.SIGKILL


def test_a_worker_ends_with_its_parent(tmp_path: Path) -> None:
    """A worker ends when its parent's end of the pipe closes, however the parent died."""
    text = """
import pathlib, sys, time, types
training = types.ModuleType("vlm.cli.training_cli")
training.VQACLI = lambda arguments: time.sleep(60)
sys.modules |= {"vlm.training": types.ModuleType("vlm.training"), training.__name__: training}
from vlm.cli.comparison_worker import main
main(pathlib.Path(sys.argv[1]))
"""
    process = subprocess.Popen([sys.executable, "-c", text, tmp_path], stdin=subprocess.PIPE)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(20) == 1


def test_a_run_starts_from_the_beginning(tmp_path: Path) -> None:
    """Files left by an interrupted attempt are removed before the run starts."""
    [run] = runs(tmp_path, "a")
    (run.folder / "old").mkdir(parents=True)
    process = start(run, environments(1, 1, ())[0])
    assert process.stdin is not None
    with process.stdin:
        assert process.wait(60) == 1
    assert {path.name for path in run.folder.iterdir()} == {PLAN, LOG}
    assert not run.finished
    assert "vlm.core.errors.ConfigError" in (run.folder / LOG).read_text()


def test_progress_is_read_from_the_metrics(tmp_path: Path) -> None:
    [run] = runs(tmp_path, "a")
    assert run.state() == "starting"
    metrics = run.folder / "20260101-000000/metrics.csv"
    metrics.parent.mkdir(parents=True)
    text = "epoch,step,train_loss,val_accuracy,test_accuracy\n0,9,0.5,,\n0,9,,0.25,\n1,19,0.4,,\n"
    for row in ("", "2,20,,,0.5\n"):
        metrics.write_text(text + row)
        assert run.state() == "epoch 2 of 9, validation 25.00 %"
    for half in ("", "epoch,step", text + "1"):
        metrics.write_text(half)
        assert run.state() in ("starting", "epoch 2 of 9, validation 25.00 %")
