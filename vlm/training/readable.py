"""Errors that are shown without their traceback."""

from __future__ import annotations

from vlm.checkpoint.checkpoint import CheckpointError
from vlm.core.finite import NotFiniteError
from vlm.datasets.errors import DataError
from vlm.image.load import ImageError
from vlm.pretrained.availability import FetchError
from vlm.training.fault_tolerance.peer_failure import MachinesError

READABLE = (CheckpointError, DataError, FetchError, ImageError, MachinesError, NotFiniteError)
"""Those whose message says it all."""
