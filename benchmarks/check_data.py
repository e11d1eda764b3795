"""How long `vlm check-data` takes for a file of one's own, and how much memory.

    python benchmarks/check_data.py                            # 100,000 and 400,000 lines
    python benchmarks/check_data.py --lines 2000 --repeats 1   # a quick look
    python benchmarks/check_data.py --output check.md          # keep the table

Synthetic JSON Lines of some 160 bytes: id, image, question, answer, type, group; five questions
about each image, ten in each group, every question another text, 1,000 different answers. The
whole command runs, in a process of its own with a configuration of the repository, without reading
images: from the start of Python to the plot.

How to read the table:
  seconds   median over the repeats
  peak MiB  the most that the process has for itself (RssAnon, Linux only; mapped files, which the
            system can take back, are not in it), looked at every 5 ms; median over the repeats
  bytes a line  how much the peak grows from the row above, by line
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONFIG = Path(__file__).parent.parent / "configs/own_data.yaml"
ANSWERS = 1000


def write(path: Path, lines: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        for number in range(lines):
            row = {
                "id": f"row {number}",
                "image": f"{number // 5}.png",
                "question": f"what is in row {number} of the file?",
                "answer": f"answer {number * 7919 % ANSWERS}",
                "type": ["what", "how many"][number % 2],
                "group": f"scene {number // 10}",
            }
            file.write(json.dumps(row) + "\n")


def measure(path: Path, output: Path) -> tuple[float, float]:
    """Seconds and peak in bytes of one run."""
    command = [
        *(sys.executable, "-m", "vlm", "check-data", str(CONFIG), "--no-images"),
        *(f"--dataset.path={path}", f"--output={output}"),
    ]
    start, peak = time.perf_counter(), 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            peak = max(peak, _own_memory(process.pid))
            time.sleep(0.005)
        seconds = time.perf_counter() - start
        assert process.stdout is not None
        said = process.stdout.read()
    if process.returncode or "0 errors" not in said:
        raise SystemExit(said)
    return seconds, peak


def _own_memory(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # it has just ended
        return 0
    return (
        next((int(x.split()[1]) for x in status.splitlines() if x.startswith("RssAnon")), 0) << 10
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lines", type=int, nargs="+", default=[100_000, 400_000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, help="also write the table there")
    given = parser.parse_args()
    rows = ["| lines | seconds | peak MiB | bytes a line |", "|---:|---:|---:|---:|"]
    before: tuple[int, float] | None = None
    with tempfile.TemporaryDirectory() as folder:
        for lines in sorted(given.lines):
            path = Path(folder) / f"{lines}.jsonl"
            write(path, lines)
            runs = [measure(path, Path(folder) / "out") for _ in range(given.repeats)]
            seconds, peak = (statistics.median(values) for values in zip(*runs, strict=True))
            more = f"{(peak - before[1]) / (lines - before[0]):.0f}" if before else ""
            rows.append(f"| {lines:,} | {seconds:.1f} | {peak / 2**20:.0f} | {more} |")
            print(rows[-1], flush=True)
            before = lines, peak
    table = "\n".join(rows)
    print(f"\nPython {platform.python_version()}, {given.repeats} repeats\n\n{table}")
    if given.output:
        given.output.write_text(table + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
