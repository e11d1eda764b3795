"""Unpacking archives into a folder, and nowhere else."""

from __future__ import annotations

import io
import shutil
import tarfile
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from vlm.datasets.download.fetch import DownloadError
from vlm.datasets.download.unpack import unpack


def pack(path: Path, files: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as packed:
            for name, content in files.items():
                packed.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_files_are_unpacked_once(name: str, tmp_path: Path) -> None:
    files = {"top/a/1.txt": b"one", "top/2.txt": b"two"}
    archive = pack(tmp_path / name, files)
    unpack(archive, tmp_path / "out")
    assert tree(tmp_path / "out") == files
    unpack(archive, tmp_path / "stripped", strip="top")
    assert tree(tmp_path / "stripped") == {"a/1.txt": b"one", "2.txt": b"two"}
    # Interrupted before the second file, with half of it written.
    (tmp_path / "out/top/2.txt").rename(tmp_path / "out/top/2.txt.part")
    before = (tmp_path / "out/top/a/1.txt").stat().st_mtime_ns
    unpack(archive, tmp_path / "out")
    assert tree(tmp_path / "out") == files
    assert (tmp_path / "out/top/a/1.txt").stat().st_mtime_ns == before


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
@pytest.mark.parametrize("member", ["../evil", "/evil", "top/../../evil", "a\\evil", "C:evil"])
def test_a_path_that_leaves_the_folder_is_refused(name: str, member: str, tmp_path: Path) -> None:
    archive = pack(tmp_path / name, {"good": b"1", member: b"2"})
    with pytest.raises(DownloadError, match=r"got the member .*evil.*Nothing was unpacked"):
        unpack(archive, tmp_path / "in/out")
    assert not (tmp_path / "in").exists()


def test_a_member_beside_the_folder_that_is_stripped(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", {"top/1": b"1", "2": b"2"})
    with pytest.raises(DownloadError, match="got the member '2'; expected a path below top"):
        unpack(archive, tmp_path / "out", strip="top")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(kind: bytes, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo("link")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(DownloadError, match="'link', a link or device"):
        unpack(tmp_path / "a.tar", tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        packed.writestr(link, "/etc/passwd")
    with pytest.raises(DownloadError, match="'link', a link or device"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_a_damaged_archive_and_a_file_of_the_user(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", {"1.txt": b"one"})
    archive.write_bytes(archive.read_bytes()[:-9])
    with pytest.raises(DownloadError, match=r"a\.zip: cannot be unpacked"):
        unpack(archive, tmp_path / "out")
    pack(tmp_path / "a.zip", {"1.txt": b"one"})
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out/1.txt").write_bytes(b"mine!")
    with pytest.raises(DownloadError, match=r"1\.txt: got 5 bytes; expected 3.*Move this file"):
        unpack(archive, tmp_path / "out")
    assert (tmp_path / "out/1.txt").read_bytes() == b"mine!"


def test_content_too_large_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = pack(tmp_path / "a.zip", {"1.txt": b"one"})
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(9**9, 0, 2))
    with pytest.raises(DownloadError, match=r"unpacking .* needs 3 bytes and the disk has 2"):
        unpack(archive, tmp_path / "out")
