"""Get a known data set: what is missing of it, and what is there already."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn
from urllib.parse import urlsplit

from vlm.core.files import PART, locked, write_whole
from vlm.datasets.download.fetch import DownloadError, check_space, fetch
from vlm.datasets.download.known import File
from vlm.datasets.download.unpack import is_archive, unpack

DONE = "downloaded.json"
"""In a set's folder, by address: the digest of what was fetched, and the size of each file that it
is, or was unpacked into."""
Progress = Callable[[str, int, int | None], None]
"""Called with a file's name, the bytes that are there, and its size, None where unknown."""


def missing(files: Sequence[File], folder: Path) -> list[File]:
    """The files that are not there yet, or no longer."""
    done = _done(folder)
    return [file for file in files if not _is_there(done.get(file.url), file, folder)]


def _is_there(noted: Any, file: File, folder: Path) -> bool:
    if not isinstance(noted, dict) or noted.get("sha256") != file.sha256:
        return False
    return all(_size(folder / name) == size for name, size in noted["sizes"].items())


def get(
    files: Sequence[File], folder: Path, progress: Progress = lambda name, done, total: None
) -> None:
    """Fetch what is missing, and unpack archives; an archive is removed once it is unpacked.

    Raises:
        DownloadError: a file that cannot be fetched or unpacked (what came before is kept), or
            another process that downloads to the folder.
        OSError: a file cannot be written.
    """

    def refuse() -> NoReturn:
        raise DownloadError(f"{folder}: another process is downloading to it; wait until it ends.")

    lock = folder / f"{DONE}.lock"
    with locked(lock, refuse, seconds=0):
        try:
            _get(files, folder, progress)
        finally:
            lock.unlink(missing_ok=True)


def _get(files: Sequence[File], folder: Path, progress: Progress) -> None:
    rest = missing(files, folder)
    for file in set(files) - set(rest):  # an archive that a kill left behind
        if is_archive(name := file_name(file)):
            (folder / name).unlink(missing_ok=True)
    # Of all of them at the start, not of the last one after hours.
    lacking = sum(max(0, (file.size or 0) - _fetched(folder / file_name(file))) for file in rest)
    check_space(folder, lacking, "the download")
    for file in rest:
        name = file_name(file)
        target = folder / name
        fetch(file.url, target, file.sha256, file.size, lambda *n, name=name: progress(name, *n))
        sizes = {name: target.stat().st_size}
        if is_archive(name):
            sizes = unpack(target, folder, file.strip)
        noted = {file.url: {"sha256": file.sha256, "sizes": sizes}}
        write_whole(folder / DONE, json.dumps(_done(folder) | noted).encode())
        if is_archive(name):
            target.unlink()


def file_name(file: File) -> str:
    """The last part of its address."""
    return PurePosixPath(urlsplit(file.url).path).name


def _fetched(target: Path) -> int:
    """Bytes of a file that are on the disk already."""
    return _size(target) or _size(target.with_name(target.name + PART)) or 0


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _done(folder: Path) -> dict[str, Any]:
    try:
        done = json.loads((folder / DONE).read_bytes())
    except (OSError, ValueError):
        return {}
    return done if isinstance(done, dict) else {}
