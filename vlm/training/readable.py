"""Errors that are shown without their traceback."""

from __future__ import annotations

from vlm.checkpoint import CheckpointError
from vlm.data.problems import DataError
from vlm.image.load import ImageError
from vlm.reach import FetchError
from vlm.training.health import NotFiniteError
from vlm.training.machines import MachinesError

READABLE = (CheckpointError, DataError, FetchError, ImageError, MachinesError, NotFiniteError)
"""Those whose message says it all."""


def root(error: BaseException) -> BaseException:
    """What the parser's own errors were raised from: the reason, without its surroundings."""
    while isinstance(error.__cause__, (ValueError, OSError)):
        error = error.__cause__
    return error
