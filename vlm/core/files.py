"""Write files whole, lock them, and know them by their content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import IO, BinaryIO

PART = ".part"
"""The suffix of a file that is being written, or was when its process was killed."""
ALIVE_SECONDS = 10.0
"""How often a process that waits for a lock reports that it is alive."""


def cache_folder() -> Path:
    """The folder of files that can be made or fetched again; it may be deleted at any time.

    `VLM_CACHE`, or `vlm` in `XDG_CACHE_HOME` or `~/.cache`.
    """
    if chosen := os.environ.get("VLM_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vlm"


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file, in a folder that exists, that is complete as soon as it has its name.

    It is written beside `path` under another name and renamed once it is on the disk. Of several
    processes that write at once, the last wins. After an error nothing is left behind, and an older
    file at `path` is untouched.

    Raises:
        OSError: the file cannot be written.
    """
    part = path.with_name(f"{path.name}.{token_hex(4)}{PART}")
    try:
        with part.open("wb") as file:
            yield file
            sync(file)
        os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` as `whole_file` does."""
    with whole_file(path) as file:
        file.write(content)


def sync(file: IO[bytes]) -> None:
    """Wait until what was written is on the disk: a loss of power could leave an empty file."""
    file.flush()
    os.fsync(file.fileno())


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal; an OSError if it cannot be read."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def locked(path: Path, alive: Callable[[], None], seconds: float = ALIVE_SECONDS) -> Iterator[None]:
    """Hold a lock file between processes; the system releases it when its process ends.

    `alive` is called every so many `seconds` while another process holds the lock; what it raises
    ends the waiting.

    Raises:
        OSError: the file cannot be made.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    while True:
        try:
            lock.acquire(timeout=seconds)
            break
        except Timeout:
            alive()
    try:
        yield
    finally:
        lock.release()
