"""A clock that a busy machine does not push on."""

from __future__ import annotations

import time
from pathlib import Path

SCHEDULED = Path("/proc/thread-self/schedstat")
"""Of Linux: nanoseconds on a core, nanoseconds spent waiting for one, and turns."""


def own_time() -> float:
    """Seconds that pass while this thread works or waits for something; not those in which it could
    go on and all cores are taken, as far as the system tells."""
    waited = int(SCHEDULED.read_text().split()[1]) / 1e9 if SCHEDULED.exists() else 0.0
    return time.perf_counter() - waited
