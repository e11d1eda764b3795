"""A cluster's wish to end the training: noted when it comes, answered when it is safe."""

from __future__ import annotations

import signal
from types import FrameType

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
        """From now on signals are noted. Lightning puts the handlers before it back at its end."""
        for number in SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name


def die_of_signals() -> None:
    """Let signals end the process, as they do without Lightning, whose handler exits with 0."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
