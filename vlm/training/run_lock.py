"""One training in a run's folder at a time."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from vlm.core.errors import ConfigError
from vlm.core.files import locked

NAME = "training.lock"
SECONDS = 6.0
"""Time for the loader workers of a killed training to end: they look for it every 5 s."""


@contextmanager
def training_in(folder: Path) -> Iterator[None]:
    """Inside, no other training writes into a run's folder. The system releases the lock when the
    process ends, for whatever reason.

    Args:
        folder: folder of the run; made if missing.

    Raises:
        ConfigError: another process trains there.
        OSError: the folder cannot be written.
    """
    path = folder / NAME
    before = path.read_text(errors="replace") if path.is_file() else ""

    def refuse() -> NoReturn:
        raise ConfigError(
            f"{folder}: got a second training, while {before or 'another process'} trains there; "
            f"expected one. Wait for it or end it, or start a separate run with another run.name."
        )

    with locked(path, refuse, SECONDS):
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield
