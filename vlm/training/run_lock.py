"""One training in a run's folder at a time."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from vlm.training.parser import ConfigError

NAME = "training.lock"
SECONDS = 6.0
"""To wait for one that was killed: its loader workers look for it every 5 s, and end."""


@contextmanager
def training_in(folder: Path) -> Iterator[None]:
    """Inside, no other training writes into a run's folder. The lock is the system's: it ends with
    the process, however that ends.

    Args:
        folder: of the run; made if it is not there.

    Raises:
        ConfigError: another process trains there.
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    lock = FileLock(path)
    before = path.read_text(errors="replace") if path.is_file() else ""
    try:
        lock.acquire(timeout=SECONDS)
    except Timeout:
        raise ConfigError(
            f"{folder}: got a second training, while {before or 'another process'} trains there; "
            f"expected one. Wait for it or end it, or start a run of its own with another run.name."
        ) from None
    try:
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        lock.release()
