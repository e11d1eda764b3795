"""An hour of faults: trainings that are killed at random and continued, and a demo under load.

    python benchmarks/stress.py                               # an hour
    python benchmarks/stress.py --minutes 5 --seed 1          # a quick look

One training runs undisturbed. Then the same training runs again and again: at random moments it
gets SIGKILL or SIGTERM, and the same command continues it (`--run.resume=auto`) until it comes to
its end; every second one has two loader workers. Each must come to the weights, optimiser state,
schedule, log and test answers of the undisturbed one, bit for bit. SIGTERM must end with exit code
75. Meanwhile a server of the demo answers two visitors without a pause, who mix broken requests
among the good ones: each answer must be the model's own, each broken one refused.

It ends with a line for each kind of event, and with exit code 1 if anything was lost.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import torch

import vlm
from vlm.datasets import EasyVQA

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
PREEMPTED = 75
BROKEN = "data:image/png;base64,bm90IGEgcGljdHVyZQ=="


def command(folder: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "vlm", "fit", "-c", "configs/easy_vqa.yaml"),
        f"--run.folder={folder}",
        "--run.resume=auto",
        "--run.checkpoint_steps=10",
        "--trainer.max_epochs=2",
        "--trainer.enable_progress_bar=false",
        "--model.fusion.merge.dropout=0.1",
        *more,
    ]


def outcome(folder: Path) -> dict[str, Any]:
    """All that a finished training comes to, but for times and places."""
    (run,) = (config.parent for config in folder.rglob("config.yaml"))
    content = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    kept = {name: content[name] for name in ("state_dict", "optimizer_states", "lr_schedulers")}
    kept["epoch"], kept["step"] = content["epoch"], content["global_step"]
    test = json.loads((run / "test.json").read_text())
    del test["about"]  # when and where
    return kept | {"test": test, "metrics": (run / "metrics.csv").read_text()}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def train_under_fire(
    folder: Path, more: list[str], draw: random.Random, until: float, events: Counter[str]
) -> bool:
    """Start, strike, continue, until the training is through; False if the time was up before."""
    while time.monotonic() < until:
        log = folder.with_suffix(".log").open("a")
        process = subprocess.Popen(
            command(folder, *more), env=ENVIRONMENT, stdout=log, stderr=log, start_new_session=True
        )
        try:
            code = process.wait(draw.uniform(5, 60))
        except subprocess.TimeoutExpired:
            if draw.random() < 0.7:
                events["SIGKILL"] += 1
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            else:
                events["SIGTERM"] += 1
                process.terminate()
                # A start that is still importing dies of the signal itself.
                if (code := process.wait(60)) not in (PREEMPTED, -signal.SIGTERM, 0):
                    events[f"LOST: SIGTERM ended with {code}"] += 1
                events[f"SIGTERM ended with {code}"] += 1
            continue
        if code != 0:
            events[f"LOST: a training ended with {code}, see {log.name}"] += 1
            return False
        return True
    return False


class Visitors:
    """Two threads that ask a demo server until they are told to stop."""

    def __init__(self, run: Path, events: Counter[str]) -> None:
        table = EasyVQA().table("test").slice(0, 400).to_pylist()
        self.rows = [(Path(row["image"]).read_bytes(), row["question"]) for row in table]
        model = vlm.load(run)
        self.answers = [model.answer(row["image"], row["question"]).text for row in table]
        self.events, self.stopped = events, threading.Event()
        self.server = subprocess.Popen(
            [sys.executable, "-u", "-m", "vlm", "demo", str(run)],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.server.stdout is not None
        found = re.search(r"http://\S+", self.server.stdout.readline())
        assert found is not None, "the server did not start"
        self.address = found.group().rstrip("/")
        self.threads = [threading.Thread(target=self.visit, args=(i,)) for i in range(2)]
        for thread in self.threads:
            thread.start()

    def ask(self, image: str, question: str) -> tuple[str, Any]:
        body = json.dumps({"data": [{"url": image}, question, None, "none", None, None]}).encode()
        headers = {"Content-Type": "application/json"}
        call = f"{self.address}/gradio_api/call/ask"
        with urlopen(Request(call, body, headers), timeout=120) as response:
            event = json.load(response)["event_id"]
        with urlopen(f"{call}/{event}", timeout=120) as stream:
            *_, name, data = stream.read().decode().strip().splitlines()
        return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))

    def visit(self, number: int) -> None:
        draw = random.Random(number)
        while not self.stopped.wait(0.2):
            index = draw.randrange(len(self.rows))
            content, question = self.rows[index]
            broken = draw.random() < 0.2
            image = "data:image/png;base64," + base64.b64encode(content).decode()
            try:
                name, data = self.ask(BROKEN if broken else image, question)
            except OSError as error:
                self.events[f"LOST: the demo did not answer: {error}"] += 1
                continue
            if broken:
                self.events["broken request refused"] += name == "error"
                self.events["LOST: broken request answered"] += name != "error"
            elif name == "complete" and (data[0]["replies"][0]["answer"] == self.answers[index]):
                self.events["question answered"] += 1
            else:
                self.events["LOST: wrong answer"] += 1

    def stop(self) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join()
        if self.server.poll() is not None:
            self.events["LOST: the demo's server ended"] += 1
        self.server.terminate()
        self.server.wait()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    draw, events = random.Random(given.seed), Counter[str]()
    with tempfile.TemporaryDirectory(prefix="vlm-stress-") as place:
        whole = Path(place) / "whole"
        subprocess.run(command(whole), env=ENVIRONMENT, check=True, capture_output=True)
        expected = outcome(whole)
        (config,) = whole.rglob("config.yaml")
        visitors = Visitors(config.parent, events)
        until, number = time.monotonic() + 60 * given.minutes, 0
        try:
            while time.monotonic() < until:
                folder, more = Path(place) / str(number), ["--data.workers=2"] * (number % 2)
                if train_under_fire(folder, more, draw, until, events):
                    alike = same(outcome(folder), expected)
                    events["training came to the same"] += alike
                    events["LOST: training came to something else"] += not alike
                    shutil.rmtree(folder)
                number += 1
                print(f"{(until - time.monotonic()) / 60:.0f} minutes left: {dict(+events)}")
        finally:
            visitors.stop()
    lost = {name: count for name, count in events.items() if name.startswith("LOST") and count}
    for name, count in sorted((+events).items()):
        print(f"{count:7,}  {name}")
    print("Nothing was lost." if not lost else "Something was lost.")
    return int(bool(lost))


if __name__ == "__main__":
    sys.exit(main())
