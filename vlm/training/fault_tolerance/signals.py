"""Signals by which a cluster stops training: recorded on arrival, handled when it is safe."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from vlm.training.fault_tolerance.leave import leave
from vlm.training.fault_tolerance.peer_failure import heard, tell

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""What schedulers send before they take a machine away; SLURM's is chosen with `--signal`."""
EXIT_CODE = 75
"""Of a process that saved and is to be started again (`EX_TEMPFAIL` of sysexits.h)."""
_woken = threading.Event()


class Preempted(Exception):
    """A signal ended the training between two batches."""


class StopSignal:
    """Records signals. The handler does nothing else: acting in the middle of a collective
    operation would hang all processes.

    Attributes:
        received: name of the signal received, or None.
    """

    def __init__(self) -> None:
        self.received: str | None = None

    def install(self) -> None:
        """Start recording signals."""
        for number in SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name


def leave_at_signals() -> None:
    """End the process at once on a signal, before the first batch of `fit` and after the last.

    There is nothing to save then, and running the same command again does the rest.
    """
    for number in SIGNALS:
        signal.signal(number, _leave)
    if not _woken.is_set():
        _woken.set()
        _wake_at_signals()


def _wake_at_signals() -> None:
    """Wake a thread on signals: Python's handlers need the main thread, which may wait in torch for
    another process for up to half an hour."""
    end, start = os.pipe()
    os.set_blocking(start, False)
    signal.set_wakeup_fd(start, warn_on_full_buffer=False)
    # A signal to a forked worker must not count as one to this process.
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    threading.Thread(target=_leave_for_it, args=(end,), daemon=True, name="signals").start()


def _leave_for_it(end: int) -> None:
    while number := os.read(end, 1):
        # During training, signals are only recorded.
        if signal.getsignal(number[0]) is _leave:
            time.sleep(1.0)  # time in which the handler itself usually runs
            if signal.getsignal(number[0]) is _leave:
                _leave(number[0], None)


def _leave(number: int, frame: FrameType | None) -> None:
    said = f"stopped by {signal.Signals(number).name} while nothing was trained."
    # torchrun also sends one after another machine fails; then report that failure.
    print(f"vlm: {heard() or said}", file=sys.stderr, flush=True)
    tell(said, late_seconds=2.0)
    leave(EXIT_CODE)


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Restore the signal handlers afterwards."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
