"""Callbacks and data with which the tests of training let something go wrong."""

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
    """Stands for a kill, in tests that stay in their process: nothing is saved for it."""


def say_when() -> None:
    """For the tests' clock, which starts with the fault."""
    print(f"struck at {time.time()}", file=sys.stderr, flush=True)


class Strike(Callback):
    """Does something at a hook of an optimiser step.

    Args:
        what: "raise", "hang", or the name of a signal that is sent to this process.
        hook: where.
        step: optimiser steps done.
        rank: of the process that is struck.
        batch: number of the batch, for hooks that come several times a step.
        once: a file that is there when it has struck; it does not strike again then.
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
    """Makes every validation batch take so many seconds.

    Args:
        seconds: of each.
        marker: a file that is there as soon as the first has begun.
    """

    def __init__(self, seconds: float, marker: str) -> None:
        self.seconds, self.marker = seconds, Path(marker)

    def on_validation_batch_start(self, *_: Any) -> None:
        self.marker.touch()
        time.sleep(self.seconds)


class BadImage(EasyVQA, ABC):
    """Something happens to the process that reads a certain image of the training part."""

    def image_source(self, image: str) -> str:
        if image.endswith("/train/images/5.png"):
            say_when()
            self.happen()
        return image

    @abstractmethod
    def happen(self) -> None:
        """To the process."""


class HungImage(BadImage):
    """It never comes."""

    def happen(self) -> None:
        time.sleep(3600)


class KillingImage(BadImage):
    """The process is killed, as when memory has run out."""

    def happen(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class ExitingImage(BadImage):
    """The process leaves without a word, as when a decoder in C gives up."""

    def happen(self) -> None:
        os._exit(3)


class RaisingImage(BadImage):
    """An error of a class that nobody expects here."""

    def happen(self) -> None:
        raise KeyError("no such shelf")


class Poison(Callback):
    """Makes something NaN: a "weight", or the "gradient" of one, at an optimiser step.

    Args:
        what: of the head's last bias.
        hook: where.
        step: optimiser steps done.
        rank: of the process.
    """

    def __init__(self, what: str, hook: str, step: int, rank: int = 0) -> None:
        self.what, self.step, self.rank = what, step, rank
        setattr(self, hook, self._poison)

    def _poison(self, trainer: Trainer, module: Any, *_: Any) -> None:
        if trainer.global_step == self.step and trainer.global_rank == self.rank:
            bias = list(module.model.head.parameters())[-1]
            (bias if self.what == "weight" else bias.grad).data.fill_(float("nan"))


class SaysFinalised(Callback):
    """Is deleted by the interpreter as it ends, and says so."""

    kept: ClassVar[list[SaysFinalised]] = []

    def __init__(self) -> None:
        self.kept.append(self)
        self.write = sys.stderr.write

    def __del__(self) -> None:
        self.write("finalised\n")


class NoLossInEvaluation(Classification):
    """Its loss is a number in training only."""

    def loss(self, output: Any, batch: Batch) -> Tensor:
        loss = super().loss(output, batch)
        return loss if self.training else loss * math.nan


class SecondIsStruck(EasyVQA):
    """The second process is told to end when the first has long begun, before they have met."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
