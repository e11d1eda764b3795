"""The time of a step by part, as a table, and a trace of some steps."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch.profiler import profile, record_function

from vlm.core.terminal import WIDTH, new_console, new_table
from vlm.model import PARTS

WARM_UP, MEASURED, TRACED = 5, 20, 3
"""Steps that come first, that are measured, and that the trace has."""
STEP = ("loader", *PARTS, "backward", "optimizer")
"""The rows of the table; what is left is "other", such as the loss."""


class StepProfile(Callback):
    """Measures where the time of training steps goes.

    The device is waited for at the bounds of each part, so the parts' times are theirs, and their
    sum is more than an unobserved step takes, in which they overlap.

    Args:
        folder: for `step_times.json` (seconds of a step by part) and `trace.json`, which Perfetto
            (https://ui.perfetto.dev) and chrome://tracing show.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.times: defaultdict[str, float] = defaultdict(float)
        self.steps = 0
        self._seen = 0
        self._in_step = False
        self._mark = 0.0
        self._started: dict[str, float] = {}
        self._labels: dict[str, record_function] = {}
        self._trace: profile | None = None
        self._hooks: list[Any] = []

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        left = trainer.estimated_stepping_batches - trainer.global_step
        left *= trainer.accumulate_grad_batches
        if left <= WARM_UP + MEASURED and trainer.is_global_zero:
            missing = "trace" if left > WARM_UP else "profile, and no trace"
            new_console(width=WIDTH).print(
                f"run.profile: there will be no {missing}: the times are those after {WARM_UP} "
                f"batches, the trace begins after {WARM_UP + MEASURED}, and {left:,} are left to "
                "train. Set trainer.max_epochs higher, or data.images_per_batch lower.",
                soft_wrap=True,
            )
        self._device = trainer.strategy.root_device
        for name in PARTS:
            part = getattr(pl_module.model, name)
            self._hooks.append(part.register_forward_pre_hook(self._hook(self._start, name)))
            self._hooks.append(part.register_forward_hook(self._hook(self._stop, name)))
        self._mark = self._now()

    def _hook(self, function: Any, name: str) -> Any:
        # A compiled part is compiled between its hooks, not with them.
        @torch.compiler.disable
        def hook(*_: Any) -> None:
            if self._in_step:  # the model is called in validation too
                function(name)

        return hook

    def on_train_epoch_start(self, *_: Any) -> None:
        self._mark = self._now()

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        if not trainer.sanity_checking:
            self._mark = self._now()  # validation is no part of a step

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._in_step = True
        self._add("loader", self._now() - self._mark)
        if self._seen == WARM_UP + MEASURED and trainer.is_global_zero:
            self._trace = profile()
            self._trace.start()

    def on_before_backward(self, *_: Any) -> None:
        self._start("backward")

    def on_after_backward(self, *_: Any) -> None:
        self._stop("backward")

    def on_before_optimizer_step(self, *_: Any) -> None:
        self._start("optimizer")

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if "optimizer" in self._started:  # not where gradients are accumulated
            self._stop("optimizer")
        self._in_step = False
        now = self._now()
        self._add("step", now - self._mark)
        self._mark = now
        self.steps += self._measuring
        self._seen += 1
        if self._seen == WARM_UP + MEASURED + TRACED:
            self._end_trace()

    def on_train_end(self, trainer: Trainer, *_: Any) -> None:
        self._end_trace()
        for hook in self._hooks:
            hook.remove()
        if not trainer.is_global_zero:
            return
        if not self.steps:
            return
        console = new_console(width=WIDTH)
        seconds = self.seconds()
        self.folder.mkdir(parents=True, exist_ok=True)
        content = json.dumps({"steps": self.steps, "seconds": seconds}, indent=1) + "\n"
        (self.folder / "step_times.json").write_text(content)
        numbers = ("ms", "share %")
        title = f"Time of a step (mean of {self.steps})"
        table = new_table("part", *numbers, numbers=numbers, title=title)
        for name, value in seconds.items():
            share = 100 * value / seconds["step"]
            table.add_row(name.replace("_", " "), f"{1e3 * value:.2f}", f"{share:.1f}")
        console.print(table)

    def seconds(self) -> dict[str, float]:
        """Seconds of a step, by part and in all."""
        found = {name: self.times[name] / self.steps for name in STEP}
        whole = self.times["step"] / self.steps
        return found | {"other": max(0.0, whole - sum(found.values())), "step": whole}

    @property
    def _measuring(self) -> bool:
        return WARM_UP <= self._seen < WARM_UP + MEASURED

    def _add(self, name: str, seconds: float) -> None:
        if self._measuring:
            self.times[name] += seconds

    def _start(self, name: str) -> None:
        if self._trace is not None:
            self._labels[name] = record_function(name)
            self._labels[name].__enter__()
        self._started[name] = self._now()

    def _stop(self, name: str) -> None:
        self._add(name, self._now() - self._started.pop(name))
        if (label := self._labels.pop(name, None)) is not None:
            label.__exit__(None, None, None)

    def _now(self) -> float:
        if self._device.type != "cpu" and self._seen < WARM_UP + MEASURED:
            torch.get_device_module(self._device).synchronize()
        return perf_counter()

    def _end_trace(self) -> None:
        if self._trace is not None:
            self._trace.stop()
            self.folder.mkdir(parents=True, exist_ok=True)
            self._trace.export_chrome_trace(str(self.folder / "trace.json"))
            self._trace = None
