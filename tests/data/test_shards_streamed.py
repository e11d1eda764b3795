"""Remote shards are fetched once each, from a real server into a bounded cache."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from fsspec.core import url_to_fs
from test_sampler import batches
from torch.utils.data import DataLoader, Dataset

from vlm.core.files import cache_folder
from vlm.data.sampler import SHARDS_MIXED, ImageGroupSampler
from vlm.data.shards import cache as shard_cache
from vlm.data.shards.index import INDEX
from vlm.data.shards.source import GB, ShardImages, Shards
from vlm.data.shards.writer import write_shards
from vlm.datasets.errors import DataError
from vlm.image import ImageError

COUNT, SHARDS, EACH = 520, 13, 40
SIZE = 51200
"""Size of a shard of as many images below 512 bytes, rounded up as tar does."""


class Server:
    """Counts the requests per file; only half of a file in `broken` is sent."""

    def __init__(self, folder: Path) -> None:
        self.asked: Counter[str] = Counter()
        self.broken: Counter[str] = Counter()
        server = self

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.lstrip("/")
                server.asked[name] += 1
                if server.broken[name] > 0:
                    server.broken[name] -= 1
                    content = (folder / name).read_bytes()
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(content) // 2))
                    self.end_headers()
                    self.wfile.write(content[: len(content) // 2])
                else:
                    super().do_GET()

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.thread = threading.Thread(target=self.http.serve_forever)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def close(self) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()

    @property
    def shards(self) -> dict[str, int]:
        return {name: count for name, count in self.asked.items() if name.endswith(".tar")}


@pytest.fixture
def images(tmp_path: Path) -> pa.Array:
    (tmp_path / "photos").mkdir()
    for number in range(COUNT):
        (tmp_path / f"photos/{number}.jpg").write_bytes(f"{number} ".encode() * 100)
    return pa.array([f"{tmp_path}/photos/{number}.jpg" for number in range(COUNT)])


@pytest.fixture
def server(images: pa.Array, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("VLM_CACHE", str(tmp_path / "cache"))
    write_shards(images, tmp_path / "shards", EACH * 1024)
    made = Server(tmp_path / "shards")
    yield made
    made.close()


def open_shards(server: Server, shards: int = SHARDS_MIXED + 2) -> ShardImages:
    """Opens the server's shards with a cache for `shards` of them."""
    return Shards(server.url, shards * SIZE / GB).open()


def kept() -> list[Path]:
    return list((cache_folder() / "shards").glob("*.tar"))


def order(shards: np.ndarray, epoch: int = 0, **kwargs: int) -> list[int]:
    made = batches(epoch, 4, np.arange(len(shards)), shards=shards, **kwargs)
    return np.concatenate([batch.rows for batch in made]).tolist()


def test_the_miniature_is_as_it_is_described(server: Server, tmp_path: Path) -> None:
    sizes = [path.stat().st_size for path in (tmp_path / "shards").glob("*.tar")]
    assert sizes == [SIZE] * SHARDS


@pytest.mark.parametrize("world", [1, 2])
def test_each_process_fetches_each_shard_once_an_epoch(
    server: Server, images: pa.Array, world: int
) -> None:
    for rank in range(world):
        pictures = open_shards(server)
        pictures.check(images)
        server.asked.clear()
        for path in kept():  # as if each rank had its own machine
            path.unlink()
        for row in order(pictures.shards_of(images), rank=rank, world=world):
            assert pictures(images[row].as_py()) == f"{row} ".encode() * 100
            assert sum(path.stat().st_size for path in kept()) <= (SHARDS_MIXED + 2) * SIZE
        assert set(server.shards.values()) == {1}
        assert len(server.shards) == SHARDS


def test_the_order_mixes_shards_and_changes_with_the_epoch() -> None:
    shards = np.repeat(np.arange(40), 25)
    one, other = order(shards, 0), order(shards, 1)
    assert sorted(one) == sorted(other) == list(range(1000))
    assert one == order(shards, 0) != other
    turns = [list(dict.fromkeys(shards[rows].tolist())) for rows in (one, other)]
    assert turns[0] != turns[1], "shards come in another order"
    # Only the mixed shards are in use at any time, plus one where a shard ends.
    first = {shard: one.index(min(np.flatnonzero(shards == shard), key=one.index))
             for shard in range(40)}  # fmt: skip
    last = {shard: max(one.index(row) for row in np.flatnonzero(shards == shard).tolist())
            for shard in range(40)}  # fmt: skip
    in_use = [sum(first[s] <= t <= last[s] for s in range(40)) for t in range(1000)]
    assert max(in_use) <= SHARDS_MIXED + 1
    assert np.mean(in_use[250:750]) > SHARDS_MIXED - 1.5, "and no fewer"


def test_questions_of_an_image_stay_together_and_go_on_after_a_stop() -> None:
    rng = np.random.default_rng(0)
    groups = rng.permutation(np.repeat(np.arange(60), 3))
    shards = np.arange(60) // 5
    made = batches(3, 4, groups, shards=shards)
    assert [len(set(groups[batch.rows])) for batch in made] == [4] * 15
    again = ImageGroupSampler(groups, 4, shards=shards)
    again.epoch, again.start = 3, 6
    rest = [batch.rows.tolist() for batch in again]
    assert rest == [batch.rows.tolist() for batch in made][6:]


class _Read(Dataset[bytes]):
    def __init__(self, pictures: ShardImages, images: list[str]) -> None:
        self.pictures, self.images = pictures, images

    def __getitem__(self, row: int) -> bytes:
        return self.pictures(self.images[row])


def test_loader_workers_share_what_is_fetched(server: Server, images: pa.Array) -> None:
    pictures = open_shards(server, SHARDS)
    pictures.check(images)
    paths = images.to_pylist()
    rows = np.random.default_rng(0).permutation(COUNT).tolist()
    data = _Read(pictures, paths)
    loader = DataLoader(data, batch_size=None, sampler=rows, num_workers=2)
    assert [content.split()[0] for content in loader] == [str(row).encode() for row in rows]
    assert set(server.shards.values()) == {1}


def test_a_further_run_fetches_nothing(server: Server, images: pa.Array) -> None:
    for _ in range(2):
        pictures = open_shards(server, SHARDS)
        for image in images.to_pylist():
            pictures(image)
    assert set(server.shards.values()) == {1}


def test_a_download_cut_short_is_tried_again(
    server: Server, images: pa.Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    pictures = open_shards(server)
    server.broken["shard-000000.tar"] = 1
    assert pictures(images[0].as_py()).startswith(b"0 ")
    assert server.asked["shard-000000.tar"] == 2
    server.broken["shard-000003.tar"] = 99
    with pytest.raises(ImageError, match=r"shard-000003\.tar: could not be fetched: 25,600 bytes"):
        pictures(images[3 * EACH].as_py())
    assert server.asked["shard-000003.tar"] == shard_cache.TRIES
    assert len(kept()) == 1
    assert not list((cache_folder() / "shards").glob("*.part"))


def test_a_missing_shard(server: Server, images: pa.Array, tmp_path: Path) -> None:
    pictures = open_shards(server)
    (tmp_path / "shards/shard-000001.tar").unlink()
    with pytest.raises(ImageError, match=r"shard-000001\.tar: there is no such file") as error:
        pictures(images[EACH].as_py())
    assert error.value.kind == "missing"


def test_what_a_killed_process_left_is_counted_and_then_removed(
    server: Server, images: pa.Array
) -> None:
    pictures = open_shards(server, SHARDS)
    left = cache_folder() / "shards" / f"{'0' * 64}.{SIZE}.part"
    left.touch()
    for image in images.to_pylist():
        pictures(image)
    assert len(kept()) == SHARDS - 1, "room is left for a download under way"
    old = time.time() - 2 * shard_cache.STALE
    os.utime(left, (old, old))
    for image in images.to_pylist():
        pictures(image)
    assert len(kept()) == SHARDS
    assert not left.exists()


def test_new_shards_under_the_old_address(server: Server, images: pa.Array, tmp_path: Path) -> None:
    assert open_shards(server)(images[0].as_py()) == b"0 " * 100
    for path in (tmp_path / "shards").iterdir():
        path.unlink()
    (tmp_path / "photos/0.jpg").write_bytes(b"new")
    write_shards(images, tmp_path / "shards", EACH * 1024)
    assert open_shards(server)(images[0].as_py()) == b"new"


def test_a_cache_too_small_is_said_at_the_start(server: Server) -> None:
    with pytest.raises(
        DataError, match=r"cache_gb: got .*expected 0\.000512 or more.*8 shards are"
    ):
        open_shards(server, SHARDS_MIXED + 1)


def test_addresses_without_shards(server: Server, tmp_path: Path) -> None:
    (tmp_path / "shards" / INDEX).unlink()
    with pytest.raises(DataError, match=r"images\.arrow could not be read .*`vlm shard` wrote"):
        open_shards(server)


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_other_file_systems(
    kind: str, images: pa.Array, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any fsspec file system works, and a missing shard gives the same error as on a server."""
    monkeypatch.setenv("VLM_CACHE", str(tmp_path / "cache"))
    write_shards(images, tmp_path / "shards", EACH * 1024)
    address = f"{kind}://{tmp_path}/shards"
    files, folder = url_to_fs(address)
    if kind == "memory":
        files.put(f"{tmp_path}/shards/", folder, recursive=True)
    pictures = Shards(address).open()
    pictures.check(images)
    for row in (0, COUNT - 1, 7):
        assert pictures(images[row].as_py()) == f"{row} ".encode() * 100
    assert len(kept()) == 2
    files.rm(f"{folder}/shard-000003.tar")
    with pytest.raises(ImageError, match=r"shard-000003\.tar: there is no such file"):
        pictures(images[3 * EACH].as_py())


@pytest.mark.skipif(find_spec("s3fs") is not None, reason="s3fs is installed, not missing")
def test_an_address_whose_package_is_not_installed() -> None:
    with pytest.raises(DataError, match=r"data\.images\.shards\.path: s3://nowhere: .*s3fs"):
        Shards("s3://nowhere").open()
