"""A cluster's wish to end the training: noted when it comes, answered when it is safe."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from vlm.training.leave import leave
from vlm.training.machines import tell

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""What schedulers send before they take a machine away; SLURM's is chosen with `--signal`."""
EXIT_CODE = 75
"""Of a process that saved and wants to be started again (`EX_TEMPFAIL` of sysexits.h)."""


class Preempted(Exception):
    """The training was told to stop, and did so between two batches."""


class StopSignal:
    """Notes signals. The handler does nothing else: what it would do between two instructions of
    a collective operation would hang all processes.

    Attributes:
        received: the name of the signal that came, or None.
    """

    def __init__(self) -> None:
        self.received: str | None = None

    def install(self) -> None:
        """From now on signals are noted."""
        for number in SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name


def leave_at_signals() -> None:
    """Before the first batch of `fit` and after its last one, a signal ends the process at once:
    there is nothing to save, and the same command does the rest."""
    for number in SIGNALS:
        signal.signal(number, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    name = signal.Signals(number).name
    print(f"vlm: stopped by {name} while nothing was trained.", file=sys.stderr, flush=True)
    tell(f"stopped by {name} while nothing was trained.", late_seconds=2.0)
    leave(EXIT_CODE)


@contextmanager
def handlers_kept() -> Iterator[None]:
    """What happens to signals is afterwards as it was before."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
