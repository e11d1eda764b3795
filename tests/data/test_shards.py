"""Tar shards in a folder are written completely or not at all, and read by index."""

from __future__ import annotations

import pickle
import shutil
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import write_data
from vqa_miniature import write_mscoco

from vlm.data.images.store import open_image
from vlm.data.shards.index import INDEX, ShardIndex, write_index
from vlm.data.shards.source import Shards
from vlm.data.shards.writer import folder_of, images_of, write_shards
from vlm.datasets import CustomDataset, EasyVQA, VQAv2
from vlm.datasets.errors import DataError
from vlm.image import ImageError


@pytest.fixture
def images(data: Path) -> pa.Array:
    return images_of(EasyVQA(data))


@pytest.fixture
def shards(images: pa.Array, tmp_path: Path) -> Path:
    write_shards(images, tmp_path / "shards", 3000)
    return tmp_path / "shards"


def test_every_image_comes_back_as_it_was(images: pa.Array, shards: Path) -> None:
    pictures = Shards(str(shards)).open()
    pictures.check(images)
    assert len(list(shards.glob("*.tar"))) > 3
    assert len(images) == len(pictures.index) == 24
    for image in images.to_pylist():
        assert pictures(image) == Path(image).read_bytes()


def test_the_data_may_have_moved(images: pa.Array, shards: Path, data: Path) -> None:
    """Shards still work with paths to another folder that doesn't contain the images."""
    for root in ("/other/place", "."):
        moved = [image.replace(str(data), root) for image in images.to_pylist()]
        pictures = Shards(str(shards)).open()
        pictures.check(pa.array(moved))
        for here, there in zip(images.to_pylist(), moved, strict=True):
            assert pictures(there) == Path(here).read_bytes()


def test_webdataset_reads_them(shards: Path, data: Path) -> None:
    from webdataset.tariterators import group_by_keys, tar_file_expander

    seen = {}
    for path in sorted(shards.glob("*.tar")):
        with path.open("rb") as file:  # `WebDataset` itself leaves files open
            source = {"url": str(path), "stream": file}
            for sample in group_by_keys(tar_file_expander([source])):
                seen[sample["__key__"]] = sample["png"]
    assert len(seen) == 24
    assert seen["test/images/7"] == (data / "test/images/7.png").read_bytes()


def test_other_programs_shards_are_indexed(data: Path, tmp_path: Path) -> None:
    """Shards from other programs may have metadata between the images and names without folders."""
    (tmp_path / "0.json").write_text("{}")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number in range(12):
            tar.add(data / f"train/images/{number}.png", f"{number}.png")
            tar.add(tmp_path / "0.json", f"{number}.json")
    images = images_of(EasyVQA(data)).slice(0, 12)
    assert write_shards(images, tmp_path, 3000) == 0, "all are there"
    pictures = Shards(str(tmp_path)).open()
    pictures.check(images)
    assert pictures(str(data / "train/images/7.png")) == (data / "train/images/7.png").read_bytes()


def test_names_of_any_script_and_length(data: Path, tmp_path: Path) -> None:
    names = ["a.b.c.png", "红色 и 🟥.png", "deep/" * 30 + "x.png", "e.png", "é.png"]
    for name in names:
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(name.encode())
    images = pa.array([str(tmp_path / "photos" / name) for name in names])
    write_shards(images, tmp_path / "shards", 10**6)
    pictures = Shards(str(tmp_path / "shards")).open()
    assert [pictures(image).decode() for image in images.to_pylist()] == names


@pytest.mark.filterwarnings("ignore:.*Get the file again, unless it was shortened")
def test_a_set_without_its_test_questions(tmp_path: Path) -> None:
    root = write_mscoco(tmp_path)
    for path in root.glob("*test*"):
        path.unlink()
    said: list[str] = []
    images = images_of(VQAv2(root), said.append)
    assert {Path(image).parent.name for image in images.to_pylist()} == {"train2014", "val2014"}
    assert [line.split(":")[0] for line in said] == ["test"]


def test_what_is_common_to_all_paths_ends_at_a_folder() -> None:
    paths = pa.array(["/d/train/10.png", "/d/train/1.png", "/d/test/1.png"])
    assert folder_of(paths) == "/d/"
    assert folder_of(paths[:2]) == "/d/train/"
    assert folder_of(pa.array(["/a.png"])) == "/"
    assert folder_of(pa.array(["a.png", "b/c.png"])) == ""


def test_an_interrupted_writing_goes_on(images: pa.Array, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    write_shards(images, whole, 3000)

    def interrupt(done: int) -> None:
        assert not list(broken.glob(INDEX))
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(images, broken, 3000, interrupt)
    left = {path.name for path in broken.iterdir()}
    assert left
    assert left < {path.name for path in whole.iterdir()}, "finished shards and the lock alone"
    for name in left:
        assert (broken / name).read_bytes() == (whole / name).read_bytes()
    kept = {name: (broken / name).stat().st_mtime_ns for name in left if name.endswith(".tar")}
    with pytest.raises(
        DataError, match="expected a folder of shards that `vlm shard` wrote to the"
    ):
        Shards(str(broken)).open()

    tars = len(list(broken.glob("*.tar")))
    (broken / f"shard-{tars:06d}.tar.part").write_bytes(b"of a process that was killed")
    written = write_shards(images, broken, 3000)
    assert 14 <= written < 24
    assert kept == {name: (broken / name).stat().st_mtime_ns for name in kept}
    assert {path.name for path in broken.iterdir()} == {path.name for path in whole.iterdir()}
    for path in whole.iterdir():
        assert (broken / path.name).read_bytes() == path.read_bytes()


def test_further_images_are_added(data: Path, tmp_path: Path) -> None:
    images = images_of(EasyVQA(data))
    some = images.filter(pa.array([n % 3 > 0 for n in range(24)]))
    folder = tmp_path / "shards"
    assert write_shards(some, folder, 10**6) == 16
    with pytest.raises(DataError, match=r"16 images, without 8 of the 24 needed.*images/0\.png"):
        Shards(str(folder)).open().check(images)
    assert write_shards(images, folder, 10**6) == 8
    pictures = Shards(str(folder)).open()
    for image in images.to_pylist():
        assert pictures(image) == Path(image).read_bytes()
    assert len(pictures.index) == 24


def test_a_image_that_is_not_there_ends_the_writing(images: pa.Array, tmp_path: Path) -> None:
    missing = pa.array([*images.to_pylist(), f"{tmp_path}/gone.png"])
    with pytest.raises(DataError, match=r"gone\.png: No such file.*`vlm check-data` lists"):
        write_shards(missing, tmp_path / "shards", 10**6)
    assert not [path for path in (tmp_path / "shards").iterdir() if path.suffix != ".lock"]


def test_images_inside_a_data_file_are_refused(data: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    content = [(data / f"train/images/{n}.png").read_bytes() for n in range(3)]
    table = {"image": content, "question": ["what?"] * 3, "answer": ["a"] * 3}
    pq.write_table(pa.table(table), tmp_path / "my.parquet")
    with pytest.raises(DataError, match="inside the data file"):
        images_of(CustomDataset(str(tmp_path / "my.parquet")))


def test_a_missing_or_short_shard_is_said_at_the_start(shards: Path) -> None:
    path = shards / "shard-000001.tar"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(DataError, match=rf"000001\.tar: got 700 bytes; the index expects {size:,}"):
        Shards(str(shards)).open()
    with pytest.raises(DataError, match=r"000001\.tar: not a complete tar file.*Delete it"):
        write_index(shards)
    path.unlink()
    with pytest.raises(DataError, match=r"000001\.tar: there is no such file; the index expects"):
        Shards(str(shards)).open()


def test_a_shard_that_changes_later_is_noticed(images: pa.Array, shards: Path) -> None:
    pictures = Shards(str(shards)).open()
    image = images[0].as_py()
    first = shards / "shard-000000.tar"
    content = bytearray(first.read_bytes())
    content[600] ^= 1
    first.write_bytes(content)
    with pytest.raises(
        ImageError, match=r"damaged in .*shard-000000\.tar: expected .* at byte 512"
    ):
        pictures(image)
    first.unlink()
    with pytest.raises(ImageError, match=r"000000\.tar: there is no such file") as error:
        open_image(image, pictures)
    assert error.value.kind == "missing"


def test_an_index_of_other_shards(shards: Path, data: Path, tmp_path: Path) -> None:
    other = write_data(tmp_path / "other", images=12, seed=5)
    images = images_of(EasyVQA(other))
    write_shards(images, tmp_path / "others", 3000)
    pictures = Shards(str(tmp_path / "others")).open()
    for path in shards.glob("*.tar"):
        shutil.copy(path, tmp_path / "others")
    seen = 0
    for image in images.to_pylist():
        try:
            assert pictures(image) == Path(image).read_bytes()
        except ImageError as error:
            seen += "Copy shards and index again, from one run" in str(error)
    assert seen


@pytest.mark.parametrize("damage", [b"", b"ARROW1", None])
def test_a_broken_index(shards: Path, damage: bytes | None) -> None:
    whole = (shards / INDEX).read_bytes()
    (shards / INDEX).write_bytes(whole[:-100] if damage is None else damage)
    with pytest.raises(DataError, match="not an index of shards, or cut short"):
        Shards(str(shards)).open()


def test_two_images_of_one_name(shards: Path) -> None:
    shutil.copy(shards / "shard-000000.tar", shards / "again.tar")
    with pytest.raises(DataError, match=r"again\.tar and shard-000000\.tar: .* more than once"):
        write_index(shards)


def test_a_image_of_another_set(shards: Path) -> None:
    pictures = Shards(str(shards)).open()
    with pytest.raises(ImageError, match=r"/x/9\.jpg: not among the 24 images of") as error:
        pictures("/x/9.jpg")
    assert error.value.kind == "missing"


def test_loader_workers_map_the_index_and_do_not_copy_it(images: pa.Array, shards: Path) -> None:
    pictures = Shards(str(shards)).open()
    assert len(pickle.dumps(pictures.index)) < 500
    copy = pickle.loads(pickle.dumps(pictures))
    assert copy(images[3].as_py()) == pictures(images[3].as_py())


def test_the_index_is_found_by_any_name(tmp_path: Path) -> None:
    """Lookup works beyond one probe and with names whose order differs from that of their bytes."""
    names = [f"{letter}{n}.png" for letter in "aZz-é红" for n in range(40)]
    (tmp_path / "p").mkdir()
    for name in names:
        (tmp_path / "p" / name).write_bytes(name.encode())
    write_shards(pa.array([f"{tmp_path}/p/{name}" for name in names]), tmp_path / "s", 10_000)
    index = ShardIndex(tmp_path / "s" / INDEX)
    for name in names:
        place = index.find(name)
        assert place is not None
        path = tmp_path / "s" / index.shards[place.shard].name
        assert path.read_bytes()[place.offset :][: place.size] == name.encode()
    assert index.find("b.png") is None
    assert index.find("") is None
    assert index.find("🟥") is None
