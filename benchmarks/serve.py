"""Questions per second that `vlm serve` answers, with batches and without.

    OMP_NUM_THREADS=1 python benchmarks/serve.py RUN [--seconds 3] [--rounds 5] [--clients 1 8 64]

RUN is a run's folder. Every request has an image that no other has (noise beside a shape), so no
cache helps. Two servers, with batches and without, have core 1 with their readers and are asked in
turn, so that other work on the machine meets both; the clients, coroutines of this process, have
core 0. A row: batches, clients, questions/s, median and 99th percentile of the latency, peak memory
of server and reader (pages that they share counted twice), and their CPU time for a question. The
ratios below are medians over rounds, with their range. The last table is the server's own account
(`/metrics`) of where a question's time on the clock goes: its share of a batch in the model, and
its way through the other stages.
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
from itertools import cycle
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

    @property
    def rate(self) -> float:
        """Questions in a second."""
        return len(self.latencies) / self.seconds

    @property
    def cost(self) -> float:
        """CPU seconds of a question."""
        return self.cpu_seconds / len(self.latencies)


class Requests:
    """Requests with different images, made before anything is measured."""

    def __init__(self, count: int) -> None:
        random = np.random.default_rng(0)
        self._made = cycle([self._request(random) for _ in range(count)])
        self._count = 0

    def _request(self, random: np.random.Generator) -> tuple[bytes, bytes]:
        pixels = np.full((SIDE, SIDE, 3), 255, np.uint8)
        top, left = random.integers(0, SIDE // 2, 2)
        pixels[top : top + 24, left : left + 24] = random.integers(0, 256, 3)
        pixels[:4] = random.integers(0, 256, (4, SIDE, 3))
        buffer = BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        form = {"image": buffer.getvalue()}, {"question": QUESTION}
        made = httpx.Request("POST", "http://localhost/answer", files=form[0], data=form[1])
        body = made.read()
        kind = made.headers["content-type"]
        head = f"POST /answer HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
        return head.encode(), body

    def __call__(self) -> bytes:
        head, body = next(self._made)
        # PNG readers ignore what follows the end marker, so no two files are equal.
        self._count += 1
        body = body.replace(b"IEND\xaeB`\x82", b"IEND\xaeB`\x82" + b"%d" % self._count)
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


async def load(
    port: int, clients: int, seconds: float, requests: Requests, cpu: Callable[[], float]
) -> Load:
    """Keep a number of clients asking for some seconds, and measure the answers."""
    done: list[tuple[float, float]] = []

    async def ask(until: Callable[[], bool]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while not until():
            start = time.perf_counter()
            writer.write(requests())
            head = await reader.readuntil(b"\r\n\r\n")
            assert b" 200 OK" in head, head
            length = re.search(rb"content-length: (\d+)", head)
            assert length is not None
            await reader.readexactly(int(length[1]))
            done.append((start, time.perf_counter()))
        writer.close()

    over = asyncio.Event()
    tasks = [asyncio.create_task(ask(over.is_set)) for _ in range(clients)]
    await asyncio.sleep(1)
    start, before = time.perf_counter(), cpu()
    await asyncio.sleep(seconds)
    end, used = time.perf_counter(), cpu() - before
    over.set()
    await asyncio.gather(*tasks)
    return Load(end - start, used, [e - b for b, e in done if start <= e < end])


class Server:
    """`vlm serve` on core 1, with batches of a size."""

    def __init__(self, run: str, batch: int) -> None:
        command = ["taskset", "-c", "1", sys.executable, "-m", "vlm", "serve", run, "--port=0"]
        self.process = subprocess.Popen(
            [*command, f"--batch={batch}", "--allow-host=localhost"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        found = re.search(r"http://\S+", self.process.stdout.readline())
        assert found is not None, "the server did not start"
        self.port = int(found.group().rpartition(":")[2])
        pid = self.process.pid
        tasks = Path(f"/proc/{pid}/task").glob("*/children")
        self.pids = [pid, *(int(child) for task in tasks for child in task.read_text().split())]

    def cpu(self) -> float:
        """Seconds of CPU time so far, its reader's too."""
        return sum(map(cpu_seconds, self.pids))

    def totals(self) -> dict[str, float]:
        """What its histograms have summed up and counted, by name and stage."""
        page = httpx.get(f"http://localhost:{self.port}/metrics").text
        found = re.findall(
            r'^(vlm_\w+_(?:sum|count))(?:{stage="(\w+)"})? (\S+)$', page, re.MULTILINE
        )
        return {f"{name} {stage}": float(value) for name, stage, value in found}

    def end(self) -> None:
        """Terminate it."""
        self.process.terminate()
        self.process.wait()


def compare(
    servers: dict[str, Server], clients: int, requests: Requests, seconds: float, rounds: int
) -> list[str]:
    """Print two rows of the table, and their ratios; give the rows of the profile."""
    before = {name: server.totals() for name, server in servers.items()}
    found: dict[str, list[Load]] = {name: [] for name in servers}
    for server in servers.values():
        for pid in server.pids:
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # resets the peak
    for _ in range(rounds):
        for name, server in servers.items():
            made = load(server.port, clients, seconds, requests, server.cpu)
            found[name].append(asyncio.run(made))
    for name, loads in found.items():
        ordered = sorted(1000 * s for one in loads for s in one.latencies)
        rate = len(ordered) / sum(one.seconds for one in loads)
        cpu = sum(one.cpu_seconds for one in loads)
        print(
            f"| {name} | {clients} | {rate:.0f} | {statistics.median(ordered):.1f} "
            f"| {ordered[int(0.99 * (len(ordered) - 1))]:.1f} "
            f"| {sum(map(peak_mib, servers[name].pids)):.0f} | {1000 * cpu / len(ordered):.2f} |",
            flush=True,
        )
    for what, ratio in (
        ("questions/s", lambda on, off: on.rate / off.rate),
        ("questions for a second of CPU", lambda on, off: off.cost / on.cost),
    ):
        ratios = sorted(map(ratio, found["on"], found["off"]))
        print(
            f"<!-- {clients} clients, {what}: {statistics.median(ratios):.2f} times with batches "
            f"({ratios[0]:.2f} - {ratios[-1]:.2f}) -->",
            flush=True,
        )
    return [
        f"| {name} | {clients} | {profile(before[name], server.totals())} |"
        for name, server in servers.items()
    ]


def profile(before: dict[str, float], after: dict[str, float]) -> str:
    """Questions of a batch, then milliseconds of a question by stage."""

    def rise(name: str) -> float:
        return after[name] - before.get(name, 0.0)

    sizes, seconds = "vlm_batch_questions", "vlm_stage_seconds"
    cells = [rise(f"{sizes}_sum ") / rise(f"{sizes}_count ")]
    cells.append(1000 * rise(f"{seconds}_sum model") / rise(f"{sizes}_sum "))
    cells += [
        1000 * rise(f"{seconds}_sum {stage}") / rise(f"{seconds}_count {stage}")
        for stage in ("receive", "read", "queue", "total")
    ]
    return " | ".join(f"{cell:.2f}" for cell in cells)


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
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    given = parser.parse_args()
    print(machine())
    requests = Requests(2000)
    servers = {"off": Server(given.run, 1), "on": Server(given.run, 16)}
    os.sched_setaffinity(0, {0})
    try:
        print("| batches | clients | questions/s | p50 ms | p99 ms | peak MiB | CPU ms |")
        print("|---|---|---|---|---|---|---|")
        profiles: list[str] = []
        for clients in given.clients:
            profiles += compare(servers, clients, requests, given.seconds, given.rounds)
        stages = "questions a batch | model ms | receive | read | queue | total"
        print(f"\n| batches | clients | {stages} |")
        print("|---|---|---|---|---|---|---|---|")
        print("\n".join(profiles))
    finally:
        for server in servers.values():
            server.end()


if __name__ == "__main__":
    main()
