"""The generated sets: digests, the same twice, damaged folders, and folders of other sets."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from vlm.data.images.regions import RegionFiles
from vlm.datasets import SHAPES, Scenes, SortOfCLEVR, SQOOPLite
from vlm.datasets.generated import base
from vlm.datasets.generated.base import GeneratedDataset
from vlm.datasets.generated.drawing import Draws
from vlm.datasets.table import DataError

SMALL: dict[str, Callable[..., GeneratedDataset]] = {
    "Scenes": lambda **given: Scenes(scenes=20, **given),
    "SortOfCLEVR": SortOfCLEVR,
    "SHAPES": SHAPES,
    "SQOOPLite": SQOOPLite,
}
VARIED: list[GeneratedDataset] = [
    Scenes(language="de"),
    Scenes(language="es"),
    Scenes(pairs=True),
    Scenes(clutter=12),
]
PUBLISHED: list[GeneratedDataset] = [
    *(Scenes(part=part) for part in ("standard", "compositional", "longer", "priors", "absent")),
    SortOfCLEVR(),
    SortOfCLEVR(objects=4),
    SHAPES(),
    *(SQOOPLite(partners=partners) for partners in (1, 2, 4, 9)),
]


@pytest.fixture(params=SMALL)
def make(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., GeneratedDataset]:
    """A class, of whose splits there are twenty pictures at most."""
    whole = GeneratedDataset._make
    monkeypatch.setattr(
        GeneratedDataset, "_make", lambda self, split, found: whole(self, split, islice(found, 20))
    )
    monkeypatch.setattr(GeneratedDataset, "_check_digests", lambda *_: None)
    return SMALL[request.param]


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_raw_numbers_of_a_stream_are_known() -> None:
    """These come from PCG64's published algorithm; another stream would change every set."""
    draws = Draws("a name")
    assert [draws.below(1000) for _ in range(6)] == [702, 908, 154, 679, 492, 938]
    assert sorted(draws.some("abc", 3)) == ["a", "b", "c"]


@pytest.mark.parametrize("split", ["train", "test"])
def test_generated_twice_it_is_the_same(
    make: Callable[..., GeneratedDataset], split: Any, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        make(root=tmp_path / name).read(split)
    one, two = content(tmp_path / "one"), content(tmp_path / "two")
    assert len(one) >= 6
    assert one == two
    make(root=tmp_path / "three", seed=1).read(split)
    other = content(tmp_path / "three")
    official = make is SHAPES and split == "test"
    pictures = [name for name in one if name.endswith(".png")]
    assert all(one[name] == other[name] for name in pictures) == official


@pytest.mark.parametrize(
    "split", [pytest.param("train", marks=pytest.mark.slow), "validation", "test"]
)
@pytest.mark.parametrize(
    "data",
    [*PUBLISHED, *(pytest.param(data, marks=pytest.mark.slow) for data in VARIED)],
    ids=lambda data: data.edition,
)
def test_it_is_what_was_published(data: GeneratedDataset, split: Any, tmp_path: Path) -> None:
    if data.pictures(split) is None:
        return
    known = json.loads(Path(base.__file__).with_name("digests.json").read_bytes())
    assert set(known[f"{data.edition} {split}"]) > {base.PICTURES}
    data.read(split)  # which compares


def test_another_content_than_the_published_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "__file__", str(tmp_path / "base.py"))
    published = {"Scenes3-standard-20-0 test": {"pictures": "0" * 16, "count": "1" * 16}}
    (tmp_path / "digests.json").write_text(json.dumps(published))
    message = (
        r"Scenes3-standard-20-0 \(test\): .* in pictures, count: got .*numpy \d.* and Pillow \d.*"
        r"install the versions in locks/train\.lock"
    )
    for _ in range(2):  # what was refused is not kept
        with pytest.raises(DataError, match=message):
            Scenes(tmp_path / "scenes", scenes=20).read("test")
    assert len(Scenes(tmp_path / "scenes", scenes=20).read("validation") or ()) == 3 * 33


def first_picture(folder: Path) -> Path:
    return min(folder.glob("*.png"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: first_picture(folder).write_bytes(b"short"),
        lambda folder: first_picture(folder).unlink(),
        lambda folder: (folder / "questions.arrow").write_bytes(b"short"),
        lambda folder: (folder / "questions.arrow").unlink(),
        lambda folder: (folder / "made.json").unlink(),
        lambda folder: (folder / "made.json").write_text("[]"),
    ],
)
def test_a_damaged_folder_is_made_again(
    make: Callable[..., GeneratedDataset], damage: Callable[[Path], object], tmp_path: Path
) -> None:
    before = make(root=tmp_path).table("train").to_pylist()
    whole = content(tmp_path)
    damage(tmp_path / "train")
    assert content(tmp_path) != whole
    assert make(root=tmp_path).table("train").to_pylist() == before
    assert content(tmp_path) == whole


def test_a_whole_folder_is_not_made_again(
    make: Callable[..., GeneratedDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = make(root=tmp_path).table("train").to_pylist()
    monkeypatch.setattr(GeneratedDataset, "_make", None)
    assert make(root=tmp_path).table("train").to_pylist() == before


def test_a_folder_that_holds_another_edition_is_refused(tmp_path: Path) -> None:
    Scenes(tmp_path, scenes=20).read("test")
    wanted = (
        rf"{re.escape(str(tmp_path))}/test: holds Scenes3-standard-20-0; expected "
        "Scenes3-longer-20-0"
    )
    with pytest.raises(DataError, match=wanted):
        Scenes(tmp_path, "longer", scenes=20).read("test")


def test_without_a_root_it_lies_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLM_CACHE", str(tmp_path))
    data = Scenes(scenes=20)
    path = Path(data.table("test")["image"][0].as_py())
    assert path == tmp_path / "generated/Scenes3-standard-20-0/test/test-00000.png"
    assert path.is_file()


def test_pictures_of_objects_have_their_regions(
    make: Callable[..., GeneratedDataset], tmp_path: Path
) -> None:
    data = make(root=tmp_path)
    images = data.table("train")["image"].unique().to_pylist()
    if make not in (SHAPES, SQOOPLite):
        files = RegionFiles(tmp_path)
        files.check(images)
        assert files(images[0]).boxes.shape[1] == 4


def test_another_revision_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLM_CACHE", str(tmp_path))
    old = Scenes(scenes=4)
    monkeypatch.setattr(Scenes, "revision", Scenes.revision + 1)
    assert Scenes(scenes=4).root != old.root
