"""The demo ends as its first line says: Ctrl+C, and no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from conftest import ROOT


def test_ctrl_c_ends_it_in_peace(run: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "vlm", "demo", str(run), "--port", "0"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = next(line for line in process.stdout if "The demo is at" in line)
        assert "(Ctrl+C ends it)" in said
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert "Traceback" not in errors
    assert process.returncode == 0
