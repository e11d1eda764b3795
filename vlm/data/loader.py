"""A loader of training batches that goes on in the middle of an epoch."""

from __future__ import annotations

import atexit
import multiprocessing
import signal
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from vlm.batch import Batch
from vlm.data.sampler import ImageGroupSampler


class ResumableLoader(DataLoader[Batch]):
    """Its state is the epoch and how many batches of it were delivered.

    The order is a function of seed and epoch (`ImageGroupSampler`), so nothing else is needed to
    go on with the very next batch, whatever the number of workers and what they had fetched.
    Lightning stores and restores the state.
    """

    sampler: ImageGroupSampler
    delivered = 0

    # A generator, so that workers start to fetch with the first batch asked for and not before:
    # Lightning makes the iterator of a continued run before it names the epoch.
    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        self.delivered = self.sampler.start
        for batch in super().__iter__():
            self.delivered += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.sampler.epoch, "delivered": self.delivered}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sampler.epoch, self.sampler.start = state["epoch"], state["delivered"]
        self.delivered = state["delivered"]


def outlive_a_signal(worker: int) -> None:
    """For a loader worker: a scheduler's signals are the trainer's business.

    A cluster signals all processes before it takes the machine away. The trainer then saves, which
    it could not do if its workers were gone.
    """
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def _end_workers() -> None:
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()


# Python ends what is left of them with the very signal that they ignore, and would wait for ever.
# What is registered last is called first.
atexit.register(_end_workers)
