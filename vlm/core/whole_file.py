"""Files that are whole as soon as they have their name."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

SUFFIX = ".part"
"""Of a file that is being written; one that is left was given up."""


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under another name, and rename it when it is on the disk.

    Of several processes that do so at once the last wins.

    Raises:
        OSError: it could not be written; nothing of it is left.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}{SUFFIX}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # or a loss of power could leave the name with no content
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
