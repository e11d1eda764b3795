"""The training runs, each in its own process and folder, several in parallel."""

from __future__ import annotations

import copy
import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NamedTuple, Protocol

import yaml
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from vlm.core.validation import counted
from vlm.core.version import __version__
from vlm.datasets.generated.base import GeneratedDataset

PLAN, FINISHED, LOG = "plan.yaml", "finished.json", "log.txt"
"""Files of a run's folder; the second is written as the very last."""
WORKER = "vlm.cli.comparison_worker"
"""The program that trains one run, or measures costs."""


@dataclass(frozen=True)
class Run:
    """One training run.

    `config` lacks nothing but where its files go. The folder's name depends on the configuration,
    so runs of different plans are never confused or overwritten.

    Attributes:
        trial: its number in a search, from 1 on; None for a run outside a search.
    """

    name: str
    seed: int
    config: dict[str, Any]
    folder: Path
    trial: int | None = None

    @property
    def title(self) -> str:
        """The name used in tables and messages."""
        part = f"seed {self.seed}" if self.trial is None else f"trial {self.trial}"
        return f"{self.name}, {part}"

    @property
    def finished(self) -> bool:
        """Whether training and testing are complete."""
        return (self.folder / FINISHED).is_file()

    @property
    def results(self) -> Path:
        """The folder in which `vlm fit` put the files of the finished run."""
        return self.folder / json.loads((self.folder / FINISHED).read_text())["run"]

    def state(self) -> str:
        """The run's progress, in a few words."""
        paths = list(self.folder.glob("*/metrics.csv"))
        try:
            with paths[0].open(newline="") as file:
                rows = list(csv.DictReader(file))
            # The test's row is numbered one epoch later.
            last = max(int(row["epoch"]) for row in rows if not row.get("test_accuracy"))
            seen = [float(row["val_accuracy"]) for row in rows if row.get("val_accuracy")]
        except (IndexError, OSError, TypeError, ValueError):
            return "starting"  # or the file is still being written
        most = self.config["trainer"]["max_epochs"] or -1  # a training may be limited by steps
        text = f"epoch {last + 1}" + (f" of {most}" if most > 0 else "")
        return text + (f", validation {100 * seen[-1]:.2f} %" if seen else "")


@dataclass(frozen=True)
class Failure:
    """A run that ended without a result, and its log."""

    run: Run
    log: Path

    @property
    def reason(self) -> str:
        """The log's last line."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().split("\n")
        return lines[-1].strip() or "its log is empty"


def plan_run(
    name: str,
    config: dict[str, Any],
    seed: int,
    output: Path,
    kind: str = "runs",
    data: str = "",
) -> Run:
    """Make the run of a complete configuration with a seed, in the folder of a comparison.

    The seed of a data set divides it into training and validation; that of a generated one, which
    draws the questions themselves, stays as it is.

    Args:
        name: of the fusion or control.
        config: configuration.
        seed: of the run.
        output: folder of the comparison.
        kind: folder in it.
        data: digest of the questions: a run on other ones has another folder.
    """
    config = copy.deepcopy(config)
    config["seed_everything"] = config["data"]["seed"] = seed
    dataset = config["dataset"]
    if "seed" in dataset["init_args"] and not issubclass(
        resolve_name(dataset["class_path"]), GeneratedDataset
    ):
        dataset["init_args"]["seed"] = seed
    place = {"folder": None, "name": None}
    about = [__version__, data, config | {"run": config["run"] | place}]
    content = json.dumps(about, sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    folder = output / kind / name / f"seed{seed}-{digest}"
    config["run"] |= {"folder": str(folder.parent), "name": folder.name}
    return Run(name, seed, config, folder)


def start(run: Run, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start training from scratch, removing the files of any interrupted attempt."""
    if run.folder.exists():
        shutil.rmtree(run.folder)
    run.folder.mkdir(parents=True)
    (run.folder / PLAN).write_text(yaml.safe_dump(run.config, sort_keys=False), encoding="utf-8")
    with (run.folder / LOG).open("wb") as log:
        return _worker([run.folder], stdout=log, stderr=subprocess.STDOUT, env=environment)


def measure_costs(plan: Path, path: Path) -> int:
    """Write the costs of a plan's fusions (`vlm.studies.comparison.cost`); gives the exit code."""
    with _worker([plan, path]) as worker:
        try:
            return worker.wait()
        finally:
            worker.kill()


def _worker(paths: Sequence[Path], **options: Any) -> subprocess.Popen[bytes]:
    # Only the parent handles Ctrl-C: Lightning would treat it as an early stop.
    command = [sys.executable, "-m", WORKER, *map(str, paths)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, **options)


def environments(jobs: int, threads: int, devices: Sequence[str]) -> list[dict[str, str]]:
    """Environments that give each parallel job an equal share of threads and of GPUs, named as in
    `CUDA_VISIBLE_DEVICES`."""
    shares = []
    for job in range(jobs):
        share = os.environ | {"OMP_NUM_THREADS": str(max(1, threads // jobs))}
        if devices:
            own = devices[job::jobs] or [devices[job % len(devices)]]
            share["CUDA_VISIBLE_DEVICES"] = ",".join(own)
        shares.append(share)
    return shares


class Work(Protocol):
    """A source of runs: a fixed list, or a search (`vlm.studies.comparison.search`)."""

    total: int

    @property
    def ended(self) -> int:
        """Number of runs that need not run again."""

    def runs(self) -> Iterator[Run]:
        """The others, each taken when there is room for it."""

    def hopeless(self, run: Run) -> bool:
        """Whether a run is given up."""

    def end(self, run: Run) -> None:
        """Take notice of a run's end."""


class Planned:
    """Runs that are known beforehand, of which none is given up."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.total, self._runs = len(runs), runs

    @property
    def ended(self) -> int:
        return sum(run.finished for run in self._runs)

    def runs(self) -> Iterator[Run]:
        return iter([run for run in self._runs if not run.finished])

    def hopeless(self, run: Run) -> bool:
        return False

    def end(self, run: Run) -> None:
        pass


def train(
    work: Work,
    shares: Sequence[dict[str, str]],
    console: Console,
    begin: Callable[[Run, dict[str, str]], subprocess.Popen[bytes]] = start,
) -> list[Failure]:
    """Train all runs that have not ended, one per share in parallel (`environments`).

    Returns:
        The runs that failed. They do not stop the others.
    """
    waiting, free = work.runs(), list(shares)
    active: list[_Active] = []
    failures: list[Failure] = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[state]}"),
    )
    # Runs take minutes or hours: the time left is estimated from all that have ended.
    with Progress(
        *columns,
        console=console,
        refresh_per_second=2,
        speed_estimate_period=inf,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        total = progress.add_task("all runs", total=work.total, completed=work.ended, state="")
        finished = f", of which {work.ended:,} finished earlier" if work.ended else ""
        console.print(f"{counted(work.total, 'run')}{finished}.", highlight=False)
        try:
            while True:
                while free and (run := next(waiting, None)) is not None:
                    share = free.pop(0)
                    task = progress.add_task(run.title, total=None, state="starting")
                    active.append(_Active(run, share, begin(run, share), task))
                if not active:
                    return failures
                time.sleep(0.2)
                for job in list(active):
                    hopeless = work.hopeless(job.run)
                    if hopeless:
                        job.process.kill()
                    elif job.process.poll() is None:
                        progress.update(job.task, state=job.run.state())
                        continue
                    active.remove(job)
                    job.process.communicate()  # closes the run's pipe
                    free.append(job.share)
                    seconds = progress.tasks[progress.task_ids.index(job.task)].elapsed or 0.0
                    progress.remove_task(job.task)
                    progress.advance(total)
                    work.end(job.run)
                    if hopeless:
                        console.print(
                            f"{job.run.title}: fell behind, stopped after {seconds:.0f} s",
                            highlight=False,
                        )
                    else:
                        failures += _ended(job.run, seconds, console)
        finally:
            for job in active:
                job.process.kill()
                job.process.communicate()


class _Active(NamedTuple):
    run: Run
    share: dict[str, str]
    process: subprocess.Popen[bytes]
    task: TaskID


def _ended(run: Run, seconds: float, console: Console) -> list[Failure]:
    if run.finished:
        console.print(f"{run.title}: finished in {seconds:.0f} s", highlight=False)
        return []
    failure = Failure(run, run.folder / LOG)
    text = f"{run.title}: FAILED. {failure.log}: {failure.reason}"
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    return [failure]
