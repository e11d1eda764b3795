"""Loaders of batches; that of a training goes on in the middle of an epoch."""

from __future__ import annotations

import atexit
import multiprocessing
import signal
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from vlm.core.batch import Batch
from vlm.data.batches import VQADataset
from vlm.data.sampler import ImageGroupSampler
from vlm.datasets.errors import DataError


def make_loader(
    questions: VQADataset,
    sampler: ImageGroupSampler,
    workers: int,
    resumable: bool,
    pin_memory: bool,
) -> DataLoader[Batch]:
    """This process's share of batches; if `resumable`, with a state for checkpoints.

    Raises:
        DataError: the system allows fewer open files than the workers need.
    """
    check_handles(workers)
    return (ResumableLoader if resumable else DataLoader)(
        questions,
        sampler=sampler,
        # The sampler gives the rows of a whole batch, and the data set returns that batch.
        batch_size=None,
        collate_fn=_unchanged,
        num_workers=workers,
        worker_init_fn=outlive_a_signal,
        pin_memory=pin_memory,
    )


HANDLES = 128
"""File handles of a process, and of the tensors that each of its workers has in transit."""


def check_handles(workers: int) -> None:
    """Make room for the tensors that loader workers pass on, each of which is an open file. A
    worker without room waits forever.

    Raises:
        DataError: the system allows fewer.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    needed = HANDLES * (1 + workers)
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if not workers or now == resource.RLIM_INFINITY or now >= needed:
        return
    if most != resource.RLIM_INFINITY and most < needed:
        raise DataError(
            f"data.workers: got {workers}, but a process may open only {most} files (ulimit -n); "
            f"expected at least {needed}. Raise the limit, or use data.workers=0."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, most))


def _unchanged(batch: Any) -> Any:
    return batch


class ResumableLoader(DataLoader[Batch]):
    """Its state is the epoch and how many batches of it were delivered.

    The order is a function of seed and epoch (`ImageGroupSampler`), so nothing else is needed to
    go on with the very next batch, whatever the number of workers and what they had fetched.
    """

    sampler: ImageGroupSampler
    delivered = 0

    # A generator, so that workers start to fetch with the first batch and not before:
    # Lightning makes the iterator of a continued run before it names the epoch.
    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # torch names its own iterator
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
    # torch's handler would take their end for a mishap, and report it below the last message.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()


# Python ends what is left of them with the very signal that they ignore, and would wait for ever.
# What is registered last is called first.
atexit.register(_end_workers)
