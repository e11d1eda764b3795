"""`vlm check-data` needs only a few bytes of memory per row, so it can read very long files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PEAK = """
import sys, threading, time
from pathlib import Path
from vlm.data import VQADataModule
from vlm.datasets import CustomDataset
from vlm.data.check.check import check_data

def own() -> int:  # what is mapped is the system's to take back
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024

def watch() -> None:
    while not done.wait(0.005):
        peaks.append(own())

small, path = sys.argv[1:]
check_data(VQADataModule(CustomDataset(small)), images=False)
done, peaks = threading.Event(), [before := own()]
thread = threading.Thread(target=watch)
thread.start()
found = check_data(VQADataModule(CustomDataset(path)), images=False)
done.set()
thread.join()
assert not found.errors.counts
print(max(peaks) - before)
"""


def write(path: Path, rows: int) -> str:
    with path.open("w") as file:
        for number in range(rows):
            question = f"what is in row {number} of the file?"
            row = {
                "image": f"{number // 5}.png",
                "question": question,
                "answer": ["yes", "no"][number % 2],
            }
            file.write(
                json.dumps(row | {"id": f"row {number}", "group": f"scene {number // 10}"}) + "\n"
            )
    return str(path)


def peak(folder: Path, rows: int) -> int:
    """The lower peak of two processes: what else the machine does adds some megabytes to one."""
    small = write(folder / "small.jsonl", 50)
    command = [sys.executable, "-c", PEAK, small, write(folder / "my.jsonl", rows)]
    ended = [
        subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True) for _ in range(2)
    ]
    return min(int(process.stdout) for process in ended)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_grows_by_bytes_a_row(tmp_path: Path) -> None:
    """Memory grows by fewer than 100 bytes per row, although a row of the file has about 110."""
    assert peak(tmp_path, 230_000) - peak(tmp_path, 30_000) < 200_000 * 100
