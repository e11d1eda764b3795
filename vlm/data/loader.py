"""A loader of training batches that goes on in the middle of an epoch."""

from __future__ import annotations

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
    """For a loader worker: a first SIGTERM is the trainer's business, a second one ends it.

    A cluster signals all processes before it takes the machine away. The trainer then saves, which
    it could not do if its workers were gone.
    """
    signal.signal(signal.SIGTERM, _end_next_time)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def _end_next_time(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_DFL)
