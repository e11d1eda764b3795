"""Unpack an archive into a folder, and nowhere else."""

from __future__ import annotations

import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from stat import S_ISDIR, S_ISREG
from typing import IO, NamedTuple

from vlm.core.files import PART
from vlm.datasets.download.fetch import DownloadError, check_space


class _Member(NamedTuple):
    """A file of an archive."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]


def is_archive(name: str) -> bool:
    """Whether a file of this name is one that `unpack` reads."""
    return name.endswith((".zip", ".tar", ".tar.gz", ".tgz"))


def unpack(archive: Path, folder: Path, strip: str = "") -> dict[str, int]:
    """Write the files of a .zip or .tar archive; one that is there in full is left alone.

    Each file gets its name once it is whole, so an interrupted call is continued by the next.

    Args:
        archive: .zip, .tar, .tar.gz or .tgz.
        folder: where the files go.
        strip: folder in the archive whose content goes there; files beside it are refused.

    Returns:
        The size of each of its files, by its path in the folder.

    Raises:
        DownloadError: a damaged archive, a member that would land elsewhere or is no plain file, no
            space, or a file there that is another.
    """
    try:
        with _members(archive) as members:
            places = [(member, folder / _place(archive, member.name, strip)) for member in members]
            missing = []
            for member, path in places:
                if not path.exists():
                    missing.append((member, path))
                elif path.stat().st_size != member.size:
                    raise DownloadError(
                        f"{path}: got {path.stat().st_size:,} bytes; expected {member.size:,}, as "
                        f"in {archive}. Move this file away."
                    )
            folder.mkdir(parents=True, exist_ok=True)
            check_space(folder, sum(member.size for member, _ in missing), f"unpacking {archive}")
            for member, path in missing:
                path.parent.mkdir(parents=True, exist_ok=True)
                part = path.with_name(path.name + PART)
                with member.open() as source, part.open("wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
                os.replace(part, path)
            if hasattr(os, "sync"):  # once for all, and before the archive is removed
                os.sync()
            return {path.relative_to(folder).as_posix(): member.size for member, path in places}
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
        raise DownloadError(
            f"{archive}: cannot be unpacked ({error}). Remove it and run the command again."
        ) from error


def _place(archive: Path, name: str, strip: str) -> PurePosixPath:
    path = PurePosixPath(name)
    inside = path.parts[:1] == (strip,) if strip else bool(path.parts)
    # A backslash and a drive are separators on Windows.
    if path.is_absolute() or ".." in path.parts or set(name) & set("\\:\0") or not inside:
        raise DownloadError(
            f"{archive}: got the member {name!r:.120}; expected a path below {strip or 'its top'}. "
            "Nothing was unpacked."
        )
    return path.relative_to(strip) if strip else path


@contextmanager
def _members(archive: Path) -> Iterator[list[_Member]]:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as packed:
            yield list(_zip_members(archive, packed))
    else:
        with tarfile.open(archive) as tar:
            yield list(_tar_members(archive, tar))


def _zip_members(archive: Path, packed: zipfile.ZipFile) -> Iterator[_Member]:
    for info in packed.infolist():
        kind = info.external_attr >> 16
        if info.is_dir() or S_ISDIR(kind):
            continue
        if kind and not S_ISREG(kind) and kind & 0o170000:
            raise _no_file(archive, info.filename)
        yield _Member(info.filename, info.file_size, lambda info=info: packed.open(info))  # type: ignore[misc]  # bound now


def _tar_members(archive: Path, tar: tarfile.TarFile) -> Iterator[_Member]:
    for info in tar:
        if info.isdir():
            continue
        if not info.isreg():
            raise _no_file(archive, info.name)
        yield _Member(info.name, info.size, lambda info=info: tar.extractfile(info))  # type: ignore[misc,arg-type]  # bound now; of a plain file never None


def _no_file(archive: Path, name: str) -> DownloadError:
    return DownloadError(
        f"{archive}: got the member {name!r:.120}, a link or device; expected plain files. Nothing "
        "was unpacked."
    )
