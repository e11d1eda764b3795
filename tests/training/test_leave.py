"""One process of several ends without the interpreter's finalisation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from training_runs import callback, fit, run

ENDS = """
import atexit, sys
from vlm.training.fault_tolerance.leave import leave

class Last:
    def __del__(self, write=sys.stderr.write):
        write("finalised")

last = Last()
atexit.register(print, "at exit")
sys.stdout.write("buffered, ")
leave(75)
"""


def test_it_has_its_exit_code_its_handlers_and_its_output_and_no_finalisation() -> None:
    """Objects destroyed during finalisation can abort a process of a distributed run."""
    ended = subprocess.run(
        [sys.executable, "-c", ENDS], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert ended.returncode == 75
    assert ended.stdout == "buffered, at exit\n"
    assert ended.stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "finalised"), [(1, True), (2, False)])
def test_processes_of_a_training_end_so(
    processes: int, finalised: bool, data: Path, tmp_path: Path
) -> None:
    told = [f"--trainer.devices={processes}", "--trainer.fast_dev_run=1"]
    ended = run(fit(data, tmp_path, *told, *callback("SaysFinalised")), processes)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert ("finalised" in ended.stderr) == finalised
