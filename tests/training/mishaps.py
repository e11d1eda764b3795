"""Callbacks and data with which the tests of training let something go wrong."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

from lightning.pytorch import Callback, Trainer

from vlm.data import EasyVQA


class Mishap(Exception):
    """Stands for a kill, in tests that stay in their process: nothing is saved for it."""


class Strike(Callback):
    """Does something once, at a hook of an optimiser step.

    Args:
        what: "raise", or the name of a signal that is sent to this process.
        hook: where.
        step: optimiser steps done.
        rank: of the process that is struck.
        batch: number of the batch, for hooks that come several times a step.
    """

    def __init__(
        self, what: str, hook: str, step: int, rank: int = 0, batch: int | None = None
    ) -> None:
        self.what, self.step, self.rank, self.batch = what, step, rank, batch
        setattr(self, hook, self._strike)

    def _strike(self, trainer: Trainer, module: Any, *rest: Any) -> None:
        if trainer.global_step != self.step or trainer.global_rank != self.rank:
            return
        if self.batch is not None and self.batch not in rest:
            return
        if self.what == "raise":
            raise Mishap
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


class HungPicture(EasyVQA):
    """A picture of the training part that never comes."""

    def setup(self, stage: str) -> None:
        super().setup(stage)
        store: Any = self._stores["train"]
        read = store.read
        store.read = lambda paths, questions: (
            (time.sleep(3600) if any(path.endswith("/5.png") for path in paths) else None)
            or read(paths, questions)
        )


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
