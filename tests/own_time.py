"""A clock that does not count time lost to other programs on a busy machine."""

from __future__ import annotations

import time
from pathlib import Path

SCHEDULED = Path("/proc/thread-self/schedstat")
"""Of Linux: nanoseconds on a core, nanoseconds spent waiting for one, and turns."""


def own_time() -> float:
    """Seconds in which this thread ran or waited for something. Time in which it was ready to run
    but had no free core is left out, if the system reports it."""
    waited = int(SCHEDULED.read_text().split()[1]) / 1e9 if SCHEDULED.exists() else 0.0
    return time.perf_counter() - waited
