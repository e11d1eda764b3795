"""Foreign shards and indexes and concurrent writes never cause wrong reads or touch other files."""

from __future__ import annotations

import json
import os
import tarfile
from hashlib import sha256
from pathlib import Path
from threading import Thread
from typing import Any
from zlib import crc32

import pyarrow as pa
import pytest

from vlm.data.shards.index import _KEY, _SCHEMA, INDEX
from vlm.data.shards.source import Shards
from vlm.data.shards.writer import write_shards
from vlm.datasets.arrow import write_arrow
from vlm.datasets.errors import DataError
from vlm.image import ImageError

SUM = "0" * 64
CONTENT = b"one image"


def pictures(folder: Path, *names: str) -> pa.Array:
    """Writes files whose content depends on the folder and the name."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(f"{folder.name} {name}".encode())
    return pa.array([str(folder / name) for name in names])


def write_own(folder: Path, shard: tuple[str, float, str], row: tuple[Any, ...]) -> None:
    """Writes an index of one shard and one image."""
    folder.mkdir(exist_ok=True)
    columns = [pa.array([v], f.type) for v, f in zip(row, _SCHEMA, strict=True)]
    batch = pa.RecordBatch.from_arrays(columns, schema=_SCHEMA)
    schema = _SCHEMA.with_metadata({_KEY: json.dumps({"shards": [shard]})})
    with (folder / INDEX).open("wb") as file:
        write_arrow(file, [batch], schema)


def test_another_set_with_the_same_names_is_refused(tmp_path: Path) -> None:
    names = ("train/1.png", "test/1.png")
    first, other = pictures(tmp_path / "one", *names), pictures(tmp_path / "other", *names)
    assert write_shards(first, tmp_path / "s", 10**6) == 2
    with pytest.raises(
        DataError, match=r"other/train/1\.png: its 17 bytes differ from the 15 bytes .*0\.tar"
    ):
        write_shards(other, tmp_path / "s", 10**6)
    Path(first[0].as_py()).unlink()  # the original images may be gone
    assert write_shards(first, tmp_path / "s", 10**6) == 0


def test_another_set_of_the_same_names_and_sizes_is_refused(tmp_path: Path) -> None:
    """Uncompressed images may have equal sizes, so the bytes of every shard are compared."""
    names = [f"{n}.bmp" for n in range(7)]
    first, other = pictures(tmp_path / "one", *names), pictures(tmp_path / "two", *names)
    assert write_shards(first, tmp_path / "s", 1) == 7
    counts: list[int] = []
    assert write_shards(first[::-1], tmp_path / "s", 1, counts.append) == 0
    assert counts == [1, 2, 3, 4, 5, 6, 7]
    with pytest.raises(
        DataError, match=r"two/\d\.bmp: its 9 bytes differ from the 9 bytes of the im"
    ):
        write_shards(other, tmp_path / "s", 1)
    for row, name in enumerate(names[:-1]):  # only the last shard's bytes differ
        Path(other[row].as_py()).write_bytes(f"one {name}".encode())
    with pytest.raises(DataError, match=r"two/6\.bmp: .* in .*/shard-000006\.tar\."):
        write_shards(other, tmp_path / "s", 10**6)


def test_a_image_that_cannot_be_compared_is_named(tmp_path: Path) -> None:
    images = pictures(tmp_path / "p", "1.png")
    write_shards(images, tmp_path / "s", 10**6)
    Path(images[0].as_py()).unlink()
    Path(images[0].as_py()).mkdir()
    with pytest.raises(DataError, match=r"1\.png: Is a directory"):
        write_shards(images, tmp_path / "s", 10**6)


def test_the_lock_is_one_file_for_all_writings(tmp_path: Path) -> None:
    """Deleting an open lock fails on Windows, and elsewhere could let two processes write."""
    for name in ("1.png", "2.png"):
        write_shards(pictures(tmp_path / "p", name), tmp_path / "s", 10**6)
        file = (tmp_path / "s/.writing.lock").stat()
        assert (file.st_size, file.st_nlink) == (0, 1)


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    images = pictures(tmp_path / "p", "1.png", "2.png")
    said: list[str] = []

    def second() -> None:
        try:
            write_shards(images, tmp_path / "s", 10**6)
        except DataError as error:
            said.append(str(error))

    def meanwhile(done: int) -> None:
        thread = Thread(target=second)
        thread.start()
        thread.join()

    assert write_shards(images, tmp_path / "s", 10**6, meanwhile) == 2
    assert len(said) == 2
    assert "another `vlm shard` is writing there" in said[0]
    left = {path.name for path in (tmp_path / "s").iterdir()}
    assert left == {"shard-000000.tar", INDEX, ".writing.lock"}
    assert Shards(str(tmp_path / "s")).open()(images[1].as_py()) == b"p 2.png"


def test_a_tar_with_names_in_another_encoding(tmp_path: Path) -> None:
    images = pictures(tmp_path / "p", "1.png")
    (tmp_path / "s").mkdir()
    options: Any = {"format": tarfile.GNU_FORMAT, "encoding": "latin-1"}
    with tarfile.open(tmp_path / "s/old.tar", "w", **options) as tar:
        tar.add(images[0].as_py(), "caf\u00e9.png")
    with pytest.raises(DataError, match=r"old\.tar: the name of the file 'caf.*is not UTF-8"):
        write_shards(images, tmp_path / "s", 10**6)


@pytest.mark.parametrize(
    ("shard", "place", "reason"),
    [
        (("../secret.tar", 9, SUM), (0, 0, 9), r"'\.\./secret\.tar'"),
        (("/etc/passwd", 9, SUM), (0, 0, 9), "'/etc/passwd'"),
        (("a.tar", 9, "../../secret"), (0, 0, 9), r"'\.\./\.\./secret'"),
        (("a\ud800.tar", 9, SUM), (0, 0, 9), "surrogates not allowed"),
        (("a.tar", 2**70, SUM), (0, 0, 9), f"a shard has {2**70} bytes"),
        (("a.tar", 9.5, SUM), (0, 0, 9), "a shard has 9.5 bytes"),
        (("a.tar", -1, SUM), (0, 0, 9), "a shard has -1 bytes"),
        (("a.tar", 9, SUM), (1, 0, 9), "in no shard"),
        (("a.tar", 9, SUM), (-1, 0, 9), "in no shard"),
        (("a.tar", 9, SUM), (0, -1, 9), "in no shard"),
        (("a.tar", 9, SUM), (0, 0, -1), "in no shard"),
        (("a.tar", 9, SUM), (0, 1, 9), "beyond its shard"),
        (("a.tar", 9, SUM), (0, 2**62, 2**62), "beyond its shard"),
    ],
)
def test_an_index_leads_to_its_own_shards_alone(
    tmp_path: Path, shard: tuple[str, float, str], place: tuple[int, int, int], reason: str
) -> None:
    (tmp_path / "secret.tar").write_bytes(CONTENT)
    write_own(tmp_path / "s", ("a.tar", 9, SUM), ("1.png", 0, 0, 9, crc32(CONTENT)))
    (tmp_path / "s/a.tar").write_bytes(CONTENT)
    assert Shards(str(tmp_path / "s")).open()("/x/1.png") == CONTENT
    write_own(tmp_path / "s", shard, ("1.png", *place, crc32(CONTENT)))
    with pytest.raises(DataError, match=f"not an index of shards.*{reason}"):
        Shards(str(tmp_path / "s")).open()


@pytest.mark.parametrize("column", range(len(_SCHEMA)), ids=_SCHEMA.names)
def test_an_index_with_nulls(tmp_path: Path, column: int) -> None:
    row: list[Any] = ["1.png", 0, 0, 9, crc32(CONTENT)]
    row[column] = None
    write_own(tmp_path / "s", ("a.tar", 9, SUM), tuple(row))
    (tmp_path / "s/a.tar").write_bytes(CONTENT)
    with pytest.raises(DataError, match=r"not an index of shards.*has no name or no"):
        Shards(str(tmp_path / "s")).open()


def test_an_index_of_thousands_of_brackets(tmp_path: Path) -> None:
    batch = pa.RecordBatch.from_pylist([], _SCHEMA)
    with (tmp_path / INDEX).open("wb") as file:
        write_arrow(file, [batch], _SCHEMA.with_metadata({_KEY: "[" * 10**6}))
    with pytest.raises(DataError, match="not an index of shards"):
        Shards(str(tmp_path)).open()


def test_an_index_of_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLM_CACHE", str(tmp_path / "cache"))
    batch = pa.RecordBatch.from_pylist([], _SCHEMA)
    with (tmp_path / INDEX).open("wb") as file:
        write_arrow(file, [batch], _SCHEMA.with_metadata({_KEY: json.dumps({"shards": []})}))
    for path in (str(tmp_path), f"file://{tmp_path}"):
        with pytest.raises(DataError, match="not an index of shards"):
            Shards(path).open()


def test_a_shard_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    images = pictures(tmp_path / "p", "1.png")
    write_shards(images, tmp_path / "s", 10**6)
    found = Shards(str(tmp_path / "s")).open()
    (tmp_path / "s/shard-000000.tar").unlink()
    (tmp_path / "s/shard-000000.tar").mkdir()
    with pytest.raises(ImageError, match=r"shard-000000\.tar: cannot be read \(Is a directory\)"):
        found(images[0].as_py())


def test_a_kept_shard_that_is_cut_short_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLM_CACHE", str(tmp_path / "cache"))
    images = pictures(tmp_path / "p", "1.png")
    write_shards(images, tmp_path / "s", 10**6)
    address = Shards(f"file://{tmp_path}/s")
    assert address.open()(images[0].as_py()) == b"p 1.png"
    (kept,) = (tmp_path / "cache/shards").glob("*.tar")
    os.truncate(kept, 100)
    assert address.open()(images[0].as_py()) == b"p 1.png"


def test_an_index_with_another_size_of_a_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard of the wrong size is not kept in the cache, even if its checksum is right."""
    monkeypatch.setenv("VLM_CACHE", str(tmp_path / "cache"))
    content = CONTENT * 100
    (tmp_path / "s").mkdir()
    (tmp_path / "s/a.tar").write_bytes(content)
    shard = ("a.tar", len(content) + 512, sha256(content).hexdigest())
    write_own(tmp_path / "s", shard, ("1.png", 0, 0, 9, crc32(CONTENT)))
    found = Shards(f"file://{tmp_path}/s").open()
    with pytest.raises(ImageError, match=r"a\.tar: has 900 bytes and .* expects 1,412 bytes"):
        found("/x/1.png")
    assert not list((tmp_path / "cache/shards").glob("*.tar"))
    assert not list((tmp_path / "cache/shards").glob("*.part"))
