"""Waiting for another process, and saying so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

SECONDS = 10.0
"""How often one that waits says that it is alive."""


@contextmanager
def locked(path: Path, alive: Callable[[], None]) -> Iterator[None]:
    """Inside, no other process holds this lock; one that dies lets go of it.

    Args:
        path: of the lock's file; its folder is made if it is not there.
        alive: called now and then while another one has it.

    Raises:
        OSError: the file could not be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    while True:
        try:
            lock.acquire(timeout=SECONDS)
            break
        except Timeout:
            alive()
    try:
        yield
    finally:
        lock.release()
