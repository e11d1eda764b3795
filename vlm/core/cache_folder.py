"""Where files are kept that can be made or fetched again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`VLM_CACHE`, or `vlm` in `XDG_CACHE_HOME` or `~/.cache`; it may be deleted at any time."""
    if chosen := os.environ.get("VLM_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vlm"
