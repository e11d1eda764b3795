"""Questions per second that `vlm serve` answers, with batches and without.

    OMP_NUM_THREADS=1 python benchmarks/serve.py RUN [--seconds 10] [--clients 1 8 64]

RUN is a run's folder. Every request has an image that no other has (noise beside a shape), so no
cache helps. The server with its reader has core 1, the clients, coroutines of this process, core 0.
A row: batches on or off, clients, questions/s, median and 99th percentile of the latency, peak
memory of server and reader (pages that they share counted twice), and their CPU time for a
question, which other work on the machine hardly changes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
from pairs import machine
from PIL import Image

QUESTION = "what shape is in the image?"
SIDE = 64


@dataclass
class Load:
    """What some clients measured."""

    seconds: float
    cpu_seconds: float
    latencies: list[float]


class Images:
    """Different images without end."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def __call__(self) -> bytes:
        pixels = np.full((SIDE, SIDE, 3), 255, np.uint8)
        top, left = self._random.integers(0, SIDE // 2, 2)
        pixels[top : top + 24, left : left + 24] = self._random.integers(0, 256, 3)
        pixels[:4] = self._random.integers(0, 256, (4, SIDE, 3))
        buffer = BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()


async def load(
    address: str, clients: int, seconds: float, images: Images, cpu: Callable[[], float]
) -> Load:
    """Keep so many clients asking for some seconds."""
    latencies: list[float] = []
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=address, limits=limits, timeout=60) as client:

        async def ask(until: float) -> None:
            while (start := time.perf_counter()) < until:
                answer = await client.post(
                    "/answer", files={"image": images()}, data={"question": QUESTION}
                )
                assert answer.status_code == 200, answer.text
                latencies.append(time.perf_counter() - start)

        await asyncio.gather(*(ask(time.perf_counter() + 1) for _ in range(clients)))
        latencies.clear()
        start, before = time.perf_counter(), cpu()
        await asyncio.gather(*(ask(start + seconds) for _ in range(clients)))
    return Load(time.perf_counter() - start, cpu() - before, latencies)


def measure(run: str, batch: int, clients: int, seconds: float, images: Images) -> str:
    """A row of the table, of a server of its own."""
    command = [
        "taskset",
        "-c",
        "1",
        sys.executable,
        "-m",
        "vlm",
        "serve",
        run,
        "--port=0",
        f"--batch={batch}",
    ]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout is not None
        found = re.search(r"http://\S+", server.stdout.readline())
        assert found is not None, "the server did not start"
        tasks = Path(f"/proc/{server.pid}/task").glob("*/children")
        processes = [server.pid, *(int(pid) for task in tasks for pid in task.read_text().split())]

        def cpu() -> float:
            return sum(map(cpu_seconds, processes))

        done = asyncio.run(load(found.group(), clients, seconds, images, cpu))
        peak = sum(map(peak_mib, processes))
    finally:
        server.terminate()
        server.wait()
    ordered = sorted(1000 * s for s in done.latencies)
    rate = len(ordered) / done.seconds
    return (
        f"| {'on' if batch > 1 else 'off'} | {clients} | {rate:.0f} "
        f"| {statistics.median(ordered):.1f} | {ordered[int(0.99 * (len(ordered) - 1))]:.1f} "
        f"| {peak:.0f} | {1000 * done.cpu_seconds / len(ordered):.2f} |"
    )


def cpu_seconds(pid: int) -> float:
    """The CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mib(pid: int) -> float:
    """The most memory that a process has had, in MiB."""
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    given = parser.parse_args()
    os.sched_setaffinity(0, {0})
    print(machine())
    print("| batches | clients | questions/s | p50 ms | p99 ms | peak MiB | CPU ms a question |")
    print("|---|---|---|---|---|---|---|")
    images = Images(0)
    for clients in given.clients:
        for batch in (1, 64):
            print(measure(given.run, batch, clients, given.seconds, images), flush=True)


if __name__ == "__main__":
    main()
