"""Callbacks and datasets that make a training run fail on purpose."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from lightning.pytorch import Callback, Trainer
from torch import Tensor

from vlm.core.batch import Batch
from vlm.datasets import EasyVQA
from vlm.heads import Classification


class Mishap(Exception):
    """Stands in for a kill in tests that stay in their own process; nothing is saved on it."""


def say_when() -> None:
    """Print the time of the fault, from which the tests measure."""
    print(f"struck at {time.time()}", file=sys.stderr, flush=True)


class Strike(Callback):
    """Raises, hangs or sends a signal at a given hook and step.

    Args:
        what: "raise", "hang", or the name of a signal to send to this process.
        hook: name of the callback hook.
        step: number of optimiser steps done.
        rank: rank of the process to strike.
        batch: batch number, for hooks that are called several times in a step.
        once: a file created at the first strike; while it exists, there is no other.
    """

    def __init__(
        self,
        what: str,
        hook: str,
        step: int,
        rank: int = 0,
        batch: int | None = None,
        once: str | None = None,
    ) -> None:
        self.what, self.step, self.rank, self.batch = what, step, rank, batch
        self.once = None if once is None else Path(once)
        setattr(self, hook, self._strike)

    def _strike(self, trainer: Trainer, module: Any, *rest: Any) -> None:
        if trainer.global_step != self.step or trainer.global_rank != self.rank:
            return
        if self.batch is not None and self.batch not in rest:
            return
        if self.once is not None:
            if self.once.exists():
                return
            self.once.touch()
        say_when()
        if self.what == "raise":
            raise Mishap
        if self.what == "hang":
            time.sleep(10000)
        os.kill(os.getpid(), getattr(signal, self.what))


class Slow(Callback):
    """Delays every validation batch.

    Args:
        seconds: delay of each batch.
        marker: a file created when the first batch begins.
    """

    def __init__(self, seconds: float, marker: str) -> None:
        self.seconds, self.marker = seconds, Path(marker)

    def on_validation_batch_start(self, *_: Any) -> None:
        self.marker.touch()
        time.sleep(self.seconds)


class BadImage(EasyVQA, ABC):
    """Something goes wrong in the process that reads one particular training image."""

    def image_source(self, image: str) -> str:
        if image.endswith("/train/images/5.png"):
            say_when()
            self.happen()
        return image

    @abstractmethod
    def happen(self) -> None:
        """Make it go wrong in the current process."""


class HungImage(BadImage):
    """Reading the image never returns."""

    def happen(self) -> None:
        time.sleep(3600)


class KillingImage(BadImage):
    """The process is killed, as it is when memory runs out."""

    def happen(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class ExitingImage(BadImage):
    """The process exits silently, as it does when a decoder written in C aborts."""

    def happen(self) -> None:
        os._exit(3)


class RaisingImage(BadImage):
    """Raises an exception of a class that the reading code does not expect."""

    def happen(self) -> None:
        raise KeyError("no such shelf")


class Poison(Callback):
    """Sets a weight or its gradient to NaN at a given optimiser step.

    Args:
        what: "weight" or "gradient", of the last bias in the head.
        hook: name of the callback hook.
        step: number of optimiser steps done.
        rank: rank of the process to poison.
    """

    def __init__(self, what: str, hook: str, step: int, rank: int = 0) -> None:
        self.what, self.step, self.rank = what, step, rank
        setattr(self, hook, self._poison)

    def _poison(self, trainer: Trainer, module: Any, *_: Any) -> None:
        if trainer.global_step == self.step and trainer.global_rank == self.rank:
            bias = list(module.model.head.parameters())[-1]
            (bias if self.what == "weight" else bias.grad).data.fill_(float("nan"))


class SaysFinalised(Callback):
    """Prints a line if the interpreter deletes it at exit."""

    kept: ClassVar[list[SaysFinalised]] = []

    def __init__(self) -> None:
        self.kept.append(self)
        self.write = sys.stderr.write

    def __del__(self) -> None:
        self.write("finalised\n")


class NoLossInEvaluation(Classification):
    """Its loss is NaN outside training."""

    def loss(self, output: Any, batch: Batch) -> Tensor:
        loss = super().loss(output, batch)
        return loss if self.training else loss * math.nan


class SecondIsStruck(EasyVQA):
    """The second process gets SIGTERM before it joins the process group."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
