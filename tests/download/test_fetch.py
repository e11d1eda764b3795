"""Fetching a file: continued, compared, and whole or not there."""

from __future__ import annotations

import hashlib
import shutil
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from download.file_server import FileServer, serving

import vlm.datasets.download.fetch as fetching
from vlm.datasets.download.fetch import DownloadError, fetch

CONTENT = np.random.default_rng(0).bytes(3_000_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(fetching, "WAIT_SECONDS", 0.001)
    with serving() as files:
        files.files["/set.bin"] = CONTENT
        yield files


def test_a_file_is_fetched_whole(server: FileServer, tmp_path: Path) -> None:
    shown: list[tuple[int, int | None]] = []
    target = tmp_path / "new/set.bin"
    fetch(f"{server.address}/set.bin", target, DIGEST, len(CONTENT), lambda *n: shown.append(n))
    assert target.read_bytes() == CONTENT
    assert shown[-1] == (len(CONTENT), len(CONTENT))
    assert {path.name for path in target.parent.iterdir()} == {"set.bin"}
    fetch(f"{server.address}/set.bin", target, DIGEST)
    assert len(server.asked) == 1, "it is there"


def test_a_connection_that_is_cut_goes_on(server: FileServer, tmp_path: Path) -> None:
    server.cut = 1_200_000
    fetch(f"{server.address}/set.bin", tmp_path / "set.bin", DIGEST)
    assert (tmp_path / "set.bin").read_bytes() == CONTENT
    asked = [wanted for _, wanted in server.asked]
    assert asked == [None, "bytes=1200000-", "bytes=2400000-"], "each byte once"


def test_a_part_is_kept_and_continued_by_the_next_call(server: FileServer, tmp_path: Path) -> None:
    target = tmp_path / "set.bin"
    server.cut = 1_000_000
    server.files["/set.bin"], whole = CONTENT, CONTENT
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetching, "TRIES", 1)

        def cut_at_once(*_: object) -> None:
            server.cut = 0

        with pytest.raises(DownloadError, match=r"1,000,000 bytes are kept in .*set\.bin\.part"):
            fetch(f"{server.address}/set.bin", target, DIGEST, progress=cut_at_once)
    assert not target.exists()
    assert (tmp_path / "set.bin.part").stat().st_size == 1_000_000
    server.cut, server.asked = None, []
    fetch(f"{server.address}/set.bin", target, DIGEST)
    assert server.asked == [("/set.bin", "bytes=1000000-")]
    assert target.read_bytes() == whole


def test_a_file_that_changed_in_between_is_fetched_anew(server: FileServer, tmp_path: Path) -> None:
    target = tmp_path / "set.bin"
    server.files["/set.bin"] = CONTENT[::-1]
    server.cut = 1_000_000

    def changed(*_: object) -> None:
        server.files["/set.bin"], server.cut = CONTENT, None

    fetch(f"{server.address}/set.bin", target, DIGEST, progress=changed)
    assert target.read_bytes() == CONTENT, "no mixture of two files"


@pytest.mark.parametrize("missing", ["ranges", "tags"])
def test_a_server_that_cannot_continue_begins_anew(
    missing: str, server: FileServer, tmp_path: Path
) -> None:
    setattr(server, missing, False)
    server.cut = 1_000_000

    def whole_from_now(*_: object) -> None:
        server.cut = None

    fetch(f"{server.address}/set.bin", tmp_path / "set.bin", DIGEST, progress=whole_from_now)
    assert (tmp_path / "set.bin").read_bytes() == CONTENT


def test_a_server_without_lengths(server: FileServer, tmp_path: Path) -> None:
    server.lengths = False
    fetch(f"{server.address}/set.bin", tmp_path / "set.bin", DIGEST)
    server.cut = 1_000_000
    with pytest.raises(DownloadError, match="got a file with the SHA-256"):
        fetch(f"{server.address}/set.bin", tmp_path / "other.bin", DIGEST)
    assert not (tmp_path / "other.bin").exists()


def test_another_file_is_not_kept(server: FileServer, tmp_path: Path) -> None:
    server.files["/set.bin"] = CONTENT[::-1]
    with pytest.raises(DownloadError, match=rf"got a file with the SHA-256 \w+; expected {DIGEST}"):
        fetch(f"{server.address}/set.bin", tmp_path / "set.bin", DIGEST, len(CONTENT))
    assert not list(tmp_path.iterdir())
    server.files["/set.bin"] = CONTENT[:-1]
    with pytest.raises(DownloadError, match="the server has 2,999,999 bytes; expected 3,000,000"):
        fetch(f"{server.address}/set.bin", tmp_path / "set.bin", DIGEST, len(CONTENT))


def test_a_file_of_the_user_is_left_alone(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "set.bin").write_bytes(b"mine")
    with pytest.raises(DownloadError, match="Move this file away"):
        fetch(f"{server.address}/set.bin", tmp_path / "set.bin", DIGEST)
    assert (tmp_path / "set.bin").read_bytes() == b"mine"


def test_a_moved_file_is_followed_and_a_removed_one_named(
    server: FileServer, tmp_path: Path
) -> None:
    server.moved["/old.bin"] = "/set.bin"
    server.cut = 2_000_000
    fetch(f"{server.address}/old.bin", tmp_path / "set.bin", DIGEST)
    assert ("/set.bin", "bytes=2000000-") in server.asked, "the range goes along"
    with pytest.raises(DownloadError, match=r"/none\.bin: the server answers 404 \(Not Found\)"):
        fetch(f"{server.address}/none.bin", tmp_path / "none.bin", DIGEST)


def test_a_server_in_trouble_is_asked_again(server: FileServer, tmp_path: Path) -> None:
    server.failures = 2
    fetch(f"{server.address}/set.bin", tmp_path / "set.bin", DIGEST)
    server.failures = 99
    with pytest.raises(DownloadError, match=r"the server answers 503 .*Run the command again"):
        fetch(f"{server.address}/set.bin", tmp_path / "other.bin", DIGEST)


def test_nobody_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "WAIT_SECONDS", 0.001)
    with pytest.raises(DownloadError, match=r"there is no connection"):
        fetch("http://127.0.0.1:9/set.bin", tmp_path / "set.bin", DIGEST)


def test_no_way_from_https_to_http() -> None:
    request = fetching.Request("https://example.org/a")
    with pytest.raises(DownloadError, match="leads to http://other/a; expected an https address"):
        fetching._NoDowngrade().redirect_request(request, None, 302, "", {}, "http://other/a")


def test_a_full_disk_is_found_before_anything_is_read(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(9**9, 0, len(CONTENT)))
    with pytest.raises(DownloadError, match=r"needs 3,000,000 bytes and the disk has 3,000,000"):
        fetch(f"{server.address}/set.bin", tmp_path / "set.bin", DIGEST)
    assert not (tmp_path / "set.bin.part").exists()
