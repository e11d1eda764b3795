"""Shards that lie elsewhere, fetched whole and kept in a folder of bounded size."""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from vlm.core.files import PART, sha256
from vlm.data.shards.index import INDEX, Shard, ShardIndex
from vlm.datasets.errors import DataError
from vlm.image.load import ImageError

TRIES = 3
"""A network fails now and then."""
STALE = 3600.0
"""Seconds after which a download that nobody writes to is given up."""


class ShardCache:
    """A folder that all processes of a machine share: each shard is fetched once for all of them.

    The shard that was used the longest time ago makes room for another: all of them take at most
    `limit` bytes. A shard's name in the folder is its checksum, so that a changed one is another.

    Raises:
        DataError: the file system's package is not installed, or there is no index.
    """

    def __init__(self, url: str, folder: Path, limit: int) -> None:
        self.url, self.folder, self.limit = url.rstrip("/"), folder, limit
        (folder / "locks").mkdir(parents=True, exist_ok=True)
        # Of these shards alone: others may have an index of the same name.
        own = hashlib.sha256(self.url.encode()).hexdigest()[:16]
        fetched = folder / f"{own}.{os.getpid()}.new"
        try:
            self._get(INDEX, fetched)
            content = hashlib.sha256(fetched.read_bytes()).hexdigest()[:16]
            os.replace(fetched, path := folder / f"{own}-{content}.arrow")
        except ImportError as error:  # such as s3fs; fsspec names it
            raise DataError(f"data.images.shards.path: {self.url}: {error}") from None
        except Exception as error:
            raise DataError(
                f"data.images.shards.path: {self.url}/{INDEX} could not be read "
                f"({_reason(error)}); expected the address of a folder that `vlm shard` wrote."
            ) from None
        finally:
            fetched.unlink(missing_ok=True)
        self.index = ShardIndex(path)

    def path(self, shard: Shard) -> Path:
        """The file of a shard, fetched if it is not there. It may go again as soon as others come.

        Raises:
            ImageError: it is not there, came damaged or not at all in `TRIES` tries, or the index
                gives it another size.
        """
        path = self.folder / f"{shard.sha256}.tar"
        if _used(path, shard.size):
            return path
        with FileLock(self.folder / "locks" / f"{shard.sha256}.lock"):
            if not _used(path, shard.size):  # another process had the lock and fetched it
                self._fetch(shard, path)
        return path

    def _fetch(self, shard: Shard, path: Path) -> None:
        # Its size is in its name, for who makes room meanwhile.
        new = self.folder / f"{shard.sha256}.{shard.size}{PART}"
        with FileLock(self.folder / "locks" / "room.lock"):
            self._make_room(shard.size)
            new.touch()
        reason = ""
        try:
            for attempt in range(TRIES):
                time.sleep(attempt**2)
                try:
                    self._get(shard.name, new)
                except FileNotFoundError:
                    raise ImageError(
                        f"{self.url}/{shard.name}: there is no such file, but the index lists it.",
                        "missing",
                    ) from None
                except Exception as error:
                    reason = _reason(error)
                    continue
                digest = sha256(new)
                got = new.stat().st_size
                if digest == shard.sha256 and got != shard.size:
                    # Kept, it would be taken for one cut short, and fetched at every image.
                    raise ImageError(
                        f"{self.url}/{shard.name}: has {got:,} bytes and the checksum of the "
                        f"index, which expects {shard.size:,} bytes. Copy shards and index there "
                        "again, from one run of `vlm shard`."
                    )
                if digest == shard.sha256:
                    os.replace(new, path)
                    return
                reason = (
                    f"{got:,} bytes with another checksum than the index has; "
                    f"expected {shard.size:,} bytes"
                )
            raise ImageError(f"{self.url}/{shard.name}: could not be fetched: {reason}.")
        finally:
            new.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        kept: list[tuple[float, int, Path]] = []
        taken = size
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):  # another process is done with it
                found = path.stat()
                if path.suffix == ".tar":
                    kept.append((found.st_mtime, found.st_size, path))
                    taken += found.st_size
                elif path.suffix == PART and time.time() - found.st_mtime > STALE:
                    path.unlink()
                elif path.suffix == PART:
                    taken += int(path.stem.rpartition(".")[2])
        for _, freed, path in sorted(kept):
            if taken <= self.limit:
                break
            with suppress(FileNotFoundError, PermissionError):  # in use, where that forbids it
                path.unlink()
                taken -= freed

    def _get(self, name: str, path: Path) -> None:
        from fsspec.core import url_to_fs

        # Anew in every process: connections do not outlive a fork.
        files, folder = url_to_fs(self.url)
        files.get_file(f"{folder}/{name}", str(path))


def _used(path: Path, size: int) -> bool:
    """Whether a shard is there, as long as it was fetched: a machine that stops all of a sudden may
    leave less. Its time is then that of now."""
    with suppress(FileNotFoundError):
        if path.stat().st_size == size:
            os.utime(path)
            return True
    return False


def _reason(error: Any) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
