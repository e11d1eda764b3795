"""When a loader worker dies, training ends soon and gives the cause in one line."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT
from training_runs import ENVIRONMENT, command, fit, run, seconds_since

pytestmark = pytest.mark.slow
CAUSES = {
    "KillingImage": r"a loader worker ended: DataLoader worker \(pid \d+\) is killed by signal: "
    r"Killed\. .* lower data\.workers",
    "ExitingImage": r"a loader worker ended: DataLoader worker \(pid \d+\) exited unexpectedly "
    r"with exit code 3\. Its own message",
    "RaisingImage": r"a loader worker failed: KeyError: 'no such shelf'$",
}


@pytest.mark.parametrize(
    ("name", "processes"),
    [("KillingImage", 1), ("KillingImage", 2), ("ExitingImage", 1), ("RaisingImage", 1)],
)
def test_the_training_ends_and_says_why(
    name: str, processes: int, data: Path, tmp_path: Path
) -> None:
    told = fit(data, tmp_path, "--data.workers=2", f"--trainer.devices={processes}")
    told[3:3] = [f"--dataset=mishaps.{name}"]  # must come before the dataset's options
    ended = run(told, processes)
    seconds = seconds_since(ended.stderr)
    assert ended.returncode == 1
    assert seconds < 30
    assert re.search(f"^vlm: {CAUSES[name]}", ended.stderr, re.MULTILINE), ended.stderr
    # No traceback of the process that waited for the worker.
    assert "vlm/cli/training_command.py" not in ended.stderr, ended.stderr


@pytest.mark.parametrize(("hard", "code"), [(200, 1), (1000, 0)])
def test_few_file_handles_are_raised_or_refused(
    hard: int, code: int, data: Path, tmp_path: Path
) -> None:
    """A worker that cannot open a file for a tensor would wait forever."""
    told = fit(data, tmp_path, "--data.workers=2", "--trainer.max_epochs=1")
    limited = ["bash", "-c", f'ulimit -Sn 30; ulimit -Hn {hard}; exec "$@"', "-", *command(told)]
    ended = subprocess.run(
        limited, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert ended.returncode == code, ended.stderr[-3000:]
    expected = (
        "data.workers: got 2, but a process may open only 200 files (ulimit -n); expected at lea"
    )
    assert (expected in ended.stderr) == bool(code)
