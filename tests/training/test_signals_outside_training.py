"""A signal before the first batch of `fit` or after the last: nothing to save, start again."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from conftest import ROOT
from training_runs import ENVIRONMENT, callback, command, fit, run


@pytest.mark.parametrize(
    ("hook", "step", "name"),
    [
        ("on_fit_start", 0, "SIGTERM"),
        pytest.param("on_fit_start", 0, "SIGUSR1", marks=pytest.mark.slow),
        pytest.param("on_test_start", 5, "SIGTERM", marks=pytest.mark.slow),
        pytest.param("on_test_start", 5, "SIGUSR1", marks=pytest.mark.slow),
    ],
)
def test_it_ends_at_once_with_75(
    hook: str, step: int, name: str, data: Path, tmp_path: Path
) -> None:
    strike = callback("Strike", what=name, hook=hook, step=step)
    ended = run(fit(data, tmp_path, "--run.test=true", "--trainer.max_epochs=1", *strike))
    assert ended.returncode == 75, ended.stderr[-3000:]
    assert f"vlm: stopped by {name} while nothing was trained." in ended.stderr
    assert not list(tmp_path.rglob("test.json"))


@pytest.mark.slow
@pytest.mark.parametrize("hook", ["on_sanity_check_start", "on_train_start"])
def test_lightning_s_own_end_takes_no_part(hook: str, data: Path, tmp_path: Path) -> None:
    """Lightning's handler would end training with exit code 0 and no checkpoint."""
    strike = callback("Strike", what="SIGTERM", hook=hook, step=0)
    told = ["--trainer.num_sanity_val_steps=1", "--trainer.max_epochs=1"]
    ended = run(fit(data, tmp_path, *told, *strike))
    assert ended.returncode == 75, ended.stderr[-3000:]


@pytest.mark.slow
def test_one_that_waits_for_a_machine_that_does_not_come_ends_too(
    data: Path, tmp_path: Path
) -> None:
    """The main thread is blocked in torch, where no Python signal handler runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    told = ["--trainer.num_nodes=2", "--trainer.devices=1", "--trainer.strategy=ddp"]
    output = tmp_path / "said"
    with (
        output.open("w") as stderr,
        subprocess.Popen(
            command(fit(data, tmp_path, *told)),
            env=ENVIRONMENT | place | {"NODE_RANK": "0"},
            cwd=ROOT,
            stderr=stderr,
        ) as waiting,
    ):
        deadline = time.monotonic() + 300
        while "Initializing distributed" not in output.read_text():
            assert waiting.poll() is None, output.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(1)  # the message comes just before it waits
        waiting.send_signal(signal.SIGTERM)
        try:
            code = waiting.wait(timeout=10)
        finally:
            waiting.kill()
    assert code == 75, output.read_text()
    assert "vlm: stopped by SIGTERM while nothing was trained." in output.read_text()
