"""Accept paths as str or pathlib.Path, everywhere in the data."""

from __future__ import annotations

import os
from pathlib import Path


def as_text(argument: str, value: object) -> str:
    """A path or address, str or `os.PathLike`, as text; otherwise a TypeError that names the
    argument."""
    if isinstance(value, (str, os.PathLike)) and isinstance(path := os.fspath(value), str):
        return path
    raise TypeError(f"{argument}: got {value!r:.80}; expected one path, as str or pathlib.Path.")


def as_path(argument: str, value: object) -> Path:
    """`as_text` as a Path."""
    return Path(as_text(argument, value))
