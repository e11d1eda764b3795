"""Runs of two sides in turns, so that the machine's mood falls on both, and their ratio.

A benchmark that `benchmarks/all.py` shows has a function `compare_all(pairs: int) -> list[Pairs]`.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from math import inf
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch

FEWEST_PAIRS = 5
"""Timed whatever time they take."""

T = TypeVar("T")


class Pairs(NamedTuple):
    """Seconds of runs of two sides.

    Attributes:
        name: the work, and both sides as "ours / theirs".
        ours, theirs: seconds of each run; those at one place were neighbours.
    """

    name: str
    ours: Sequence[float]
    theirs: Sequence[float]

    @property
    def ratios(self) -> list[float]:
        """Of neighbouring runs; below 1 ours is faster."""
        return [ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=True)]

    @property
    def medians(self) -> tuple[float, float]:
        """Seconds of each side."""
        return statistics.median(self.ours), statistics.median(self.theirs)

    @property
    def ratio(self) -> str:
        """The median of the ratios and their range."""
        ratios = self.ratios
        return (
            f"{statistics.median(ratios):.3g} "
            f"(range {min(ratios):.3g} - {max(ratios):.3g}, {len(ratios)} pairs)"
        )

    @property
    def interval(self) -> str:
        """The median of the ratios and its 95 % bootstrap interval."""
        low, high = median_interval(self.ratios)
        return f"{statistics.median(self.ratios):.3f} [{low:.3f} - {high:.3f}]"


def timed(work: Callable[[], object]) -> float:
    """Seconds of a call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def take_turns(sides: Sequence[Callable[[], T]], pairs: int, seconds: float = inf) -> list[list[T]]:
    """What each side returns, run by run: a list for each side. Who goes first alternates.

    Args:
        sides: their warm runs; call each once before, as its first run is slower.
        pairs: most runs of each side.
        seconds: no further pair begins after this time, once there are `FEWEST_PAIRS`.
    """
    found: list[list[T]] = [[] for _ in sides]
    until = time.perf_counter() + seconds
    for number in range(pairs):
        if number >= FEWEST_PAIRS and time.perf_counter() > until:
            break
        turn = list(zip(sides, found, strict=True))
        for side, results in reversed(turn) if number % 2 else turn:
            results.append(side())
    return found


def peak_memory(work: Callable[[], object]) -> float:
    """Most MiB of PyTorch's CPU allocator held during a call, beyond what was held before.

    Counted from every allocation and release (torch.profiler), not from the process: what ran
    before does not matter, and it comes out the same on a busy machine.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler talks about missing GPUs
    only_cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=only_cpu, profile_memory=True) as profile:
        work()
    events = profile.profiler.kineto_results.events()
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    return float(np.cumsum([size for _, size in sorted(changes)]).max()) / 2**20


def median_interval(values: Sequence[float], resamples: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the median."""
    chosen = np.random.default_rng(0).choice(values, (resamples, len(values)))
    low, high = np.quantile(np.median(chosen, 1), (0.025, 0.975))
    return float(low), float(high)


def machine() -> str:
    """Processor, cores, threads, load and versions: what belongs beside every figure."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return (
        f"{name}, {os.cpu_count()} cores{load}, {torch.get_num_threads()} threads, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def markdown(headings: str, rows: Sequence[str]) -> str:
    """A table of rows whose cells stand between " | "."""
    rule = "---|" * (headings.count("|") + 1)
    return "\n".join([f"| {headings} |", f"|{rule}", *(f"| {row} |" for row in rows)])
