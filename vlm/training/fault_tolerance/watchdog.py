"""End a process that makes no progress."""

from __future__ import annotations

import faulthandler
import sys
import threading
import time
from typing import Any

from lightning.pytorch import Callback, Trainer

from vlm.training.fault_tolerance.leave import abandon


class Watchdog(Callback):
    """Ends the process if no batch finishes for too long, for example because a loader hangs, an
    image is on a file server that does not answer, or another process is gone.

    Nothing else would end it: a loader's own timeout only covers its workers, and a collective's
    is half an hour. The stack of each thread is printed first.

    Args:
        minutes: maximum time without a finished batch.
    """

    def __init__(self, minutes: float) -> None:
        self.minutes = minutes
        self._alive = time.monotonic()
        self._done = threading.Event()

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        self._done.clear()
        self._beat()
        trainer.datamodule.alive = self._beat  # type: ignore[attr-defined]  # ours
        threading.Thread(
            target=self._watch, args=(trainer.global_rank,), daemon=True, name="watchdog"
        ).start()

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        self._done.set()

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        self._done.set()

    def _beat(self, *_: Any, **__: Any) -> None:
        self._alive = time.monotonic()

    on_train_batch_end = on_train_epoch_end = _beat
    on_validation_batch_end = on_validation_end = on_test_batch_end = on_predict_batch_end = _beat

    def _watch(self, rank: int) -> None:
        limit = 60 * self.minutes
        while not self._done.wait(max(0.1, limit - (time.monotonic() - self._alive))):
            if time.monotonic() - self._alive >= limit:
                self._end(rank)

    def _end(self, rank: int) -> None:
        print(
            f"vlm: process {rank}: no batch was finished for {self.minutes:g} minutes "
            f"(run.stall_minutes), so it ends. Stack of each thread:",
            file=sys.stderr,
            flush=True,
        )
        faulthandler.dump_traceback(all_threads=True)
        abandon()
