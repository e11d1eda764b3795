"""What runs on a pretended GPU, in processes of its own: torch has room for one such device."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pretended_training.py", "pretended_parts.py"])
@pytest.mark.parametrize("which", ["not slow", "slow"])
def test_on_a_pretended_gpu(name: str, which: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-m", which, str(HERE / name)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]
