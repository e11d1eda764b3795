"""Images inside a data file, in Parquet, base64 or Hugging Face format, are stored once each."""

from __future__ import annotations

import base64
import json
import pickle
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import COLORS
from PIL import Image
from torch.testing import assert_close

from vlm.data.images.store import ImageStore
from vlm.datasets import CustomDataset
from vlm.datasets.errors import DataError
from vlm.datasets.readers.huggingface import read_data_set
from vlm.datasets.readers.image_files import EmbeddedImages
from vlm.image import ImageError
from vlm.image.transform import ImageTransform


def png(color: str) -> bytes:
    content = BytesIO()
    Image.new("RGB", (5, 3), COLORS[color]).save(content, "PNG")
    return content.getvalue()


SHOWN = ["red", "green", "red", "blue", "green"]
TRANSFORM = ImageTransform((3, 5))


def colors_of(data: CustomDataset, table: pa.Table, cached: bool = False) -> list[str]:
    """Returns the colour of each question's image."""
    store = ImageStore(TRANSFORM, data.image_source)
    images, ids = table["image"].to_pylist(), table["id"].to_pylist()
    if cached:
        store.cache(images, ids, "test")
    names = {value: name for name, value in COLORS.items()}
    return [names[tuple(picture[:, 0, 0].tolist())] for picture in store.read(images, ids)]


def rows(kind: str) -> list[dict[str, Any]]:
    made = []
    for number, color in enumerate(SHOWN):
        content = png(color)
        text = base64.b64encode(content).decode()
        image: Any = {
            "bytes": content,
            "hugging face": {"bytes": content, "path": f"{number}.png"},
            "base64": text,
            "lines of base64": "\n".join([text[:40], text[40:]]),
            "data url": f"data:image/png;base64,{text}",
            "base64 in an object": {"bytes": text, "path": None},
        }[kind]
        made.append({"image": image, "question": f"q{number}?", "answer": color})
    return made


def write(path: Path, content: list[dict[str, Any]]) -> str:
    if path.suffix == ".parquet":
        columns = {name: [row[name] for row in content] for name in content[0]}
        pq.write_table(pa.table(columns), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return str(path)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("my.parquet", "bytes"),
        ("my.parquet", "hugging face"),
        ("my.jsonl", "base64"),
        ("my.jsonl", "lines of base64"),
        ("my.jsonl", "data url"),
        ("my.jsonl", "base64 in an object"),
    ],
)
def test_images_inside_a_file(name: str, kind: str, cached: bool, tmp_path: Path) -> None:
    path = write(tmp_path / name, rows(kind))
    data = CustomDataset(path, validation=path, test=path)
    table = data.read("train")
    assert colors_of(data, table, cached) == SHOWN
    keys = [f"{path}, image {n}" for n in (1, 2, 1, 3, 2)]
    assert table["image"].to_pylist() == keys, "equal images are one image"
    assert data.read("test")["image"].to_pylist() == keys, "in other splits too"


def test_rows_with_paths_and_rows_with_bytes(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(png("blue"))
    content = rows("hugging face")
    content[1]["image"] = {"bytes": None, "path": "0.png"}
    path = write(tmp_path / "my.parquet", content)
    data = CustomDataset(path, validation=path)
    assert colors_of(data, data.read("train")) == ["red", "blue", "red", "blue", "green"]


def test_a_base64_cell_of_csv_may_be_long(tmp_path: Path) -> None:
    noise = torch.randint(0, 256, (300, 300, 3), dtype=torch.uint8).numpy()
    content = BytesIO()
    Image.fromarray(noise).save(content, "PNG")
    text = base64.b64encode(content.getvalue()).decode()
    assert len(text) > 2**17, "what csv takes by default"
    (tmp_path / "my.csv").write_text(f"image,question,answer\n{text},what?,x\n")
    data = CustomDataset(str(tmp_path / "my.csv"), test=str(tmp_path / "my.csv"))
    table = data.read("train")
    whole = ImageStore(ImageTransform((300, 300)), data.image_source)
    shown = whole.read(table["image"].to_pylist(), ["1"])[0]
    assert_close(shown, torch.from_numpy(noise).permute(2, 0, 1))


def test_a_split_by_image_keeps_equal_images_together(tmp_path: Path) -> None:
    path = write(tmp_path / "my.parquet", rows("bytes"))
    data = CustomDataset(path, validation_share=0.4)
    parts = [data.table(split)["image"].to_pylist() for split in ("train", "validation", "test")]
    assert sorted(len(set(part)) for part in parts) == [1, 1, 1]
    assert len({key for part in parts for key in part}) == 3
    assert sum(map(len, parts)) == 5


def test_a_broken_image_is_named_by_its_place(tmp_path: Path) -> None:
    content = rows("bytes")
    content[1]["image"], content[3]["image"] = b"no image", b""
    path = write(tmp_path / "my.parquet", content)
    data = CustomDataset(path, test=path)
    store = ImageStore(TRANSFORM, data.image_source)
    table = data.read("train").to_pylist()
    for row, reason in ((table[1], "not a readable image"), (table[3], "the file is empty")):
        with pytest.raises(ImageError) as caught:
            store.read([row["image"]], [row["id"]])
        assert str(caught.value).startswith(f"Question {row['id']!r}: {path}, image ")
        assert reason in str(caught.value)
        assert "0x" not in str(caught.value), "an address in memory"


def test_images_lie_in_a_temporary_file_that_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    pictures = EmbeddedImages()
    assert not list(tmp_path.iterdir()), "nothing is written without need"
    key = pictures.add(b"x" * 11, "my.parquet")
    assert pictures.add(b"y" * 7, "my.parquet") != key
    assert pictures.add(b"x" * 11, "another.parquet") == key
    assert sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file()) == 18
    copy = pickle.loads(pickle.dumps(pictures))  # as sent to loader workers
    assert copy(key) == pictures(key) == b"x" * 11
    for path in ("a.png", "other.parquet, image 1"):
        assert pictures(path) == path
    del copy
    assert list(tmp_path.iterdir()), "a copy does not take it away"
    del pictures
    assert not list(tmp_path.iterdir())


def test_no_space_for_images_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = write(tmp_path / "my.parquet", rows("bytes"))

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(DataError, match=rf"^{path}: its .*No space left on device\); set TMPDIR"):
        CustomDataset(path, test=path).read("train")


@pytest.fixture
def datasets(monkeypatch: pytest.MonkeyPatch) -> Any:
    found = pytest.importorskip("datasets", reason="the extra `datasets` is not installed")
    found.disable_progress_bars()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return found


def hugging_face(datasets: Any) -> Any:
    features = {
        "image": datasets.Image(),
        "question": datasets.Value("string"),
        "answer": datasets.ClassLabel(names=["red", "green", "blue"]),
        "unread": datasets.Value("int64"),
    }
    content = [row | {"unread": 1} for row in rows("hugging face")]
    return datasets.Dataset.from_list(content, features=datasets.Features(features))


@pytest.mark.parametrize("kind", ["saved", "parquet"])
def test_a_hugging_face_folder(kind: str, datasets: Any, tmp_path: Path) -> None:
    whole = hugging_face(datasets)
    folder = tmp_path / "hf"
    if kind == "saved":
        parts = {"train": whole, "val": whole.select([3]), "extra": whole}
        datasets.DatasetDict(parts).save_to_disk(folder)
    else:
        folder.mkdir()
        whole.to_parquet(folder / "train.parquet")
        whole.select([3]).to_parquet(folder / "validation.parquet")
    data = CustomDataset(str(folder))
    train, validation = data.table("train"), data.table("validation")
    assert colors_of(data, train) == SHOWN
    assert train["answers"].to_pylist() == [[color] for color in SHOWN], "labels by name"
    assert train["place"][4].as_py() == f"{folder}, train, row 5"
    assert validation["answers"].to_pylist() == [["blue"]]
    assert validation["image"].to_pylist() == [train["image"][3].as_py()]
    assert not data.has("test")


def labelled(datasets: Any, answers: Any, values: list[Any]) -> list[Any]:
    """Writes a Hugging Face data set with these answers and returns what is read from it."""
    features = {"answers": answers, "image": datasets.Value("string")}
    content = [{"answers": value, "image": "a.png"} for value in values]
    data = datasets.Dataset.from_list(content, features=datasets.Features(features))
    with tempfile.TemporaryDirectory() as folder:
        data.save_to_disk(folder)
        return [r.values["answers"] for r in read_data_set(folder, "train", ["answers", "image"])]


def test_lists_of_class_labels_come_by_name(datasets: Any) -> None:
    label = datasets.ClassLabel(names=["no", "yes"])
    lists = [[1, 0, 1], [], None, [-1, -1], [0, -1]]
    named = [["yes", "no", "yes"], [], None, None, ["no", None]]
    for feature in (datasets.Sequence(label), datasets.List(label), [label]):
        assert labelled(datasets, feature, lists) == named
    inside = datasets.List({"answer": label, "count": datasets.Value("int64")})
    (found,) = labelled(datasets, inside, [[{"answer": 1, "count": 3}]])
    assert found == [{"answer": "yes", "count": 3}]
    columns = datasets.Sequence({"answer": label, "count": datasets.Value("int64")})
    (found,) = labelled(datasets, columns, [{"answer": [1, 0], "count": [3, 5]}])
    assert found == {"answer": ["yes", "no"], "count": [3, 5]}


def test_an_unlabelled_split_has_no_answers(datasets: Any, tmp_path: Path) -> None:
    whole = hugging_face(datasets)
    unlabelled = whole.map(lambda row: row | {"answer": -1}, features=whole.features)
    datasets.DatasetDict({"train": whole, "test": unlabelled}).save_to_disk(tmp_path / "hf")
    table = CustomDataset(str(tmp_path / "hf")).table("test")
    assert table["answers"].null_count == len(table) == len(SHOWN)


def test_one_hugging_face_split_is_cut_by_image(datasets: Any, tmp_path: Path) -> None:
    hugging_face(datasets).save_to_disk(tmp_path / "hf")
    data = CustomDataset(str(tmp_path / "hf"), validation_share=0.4)
    sizes = [len(data.table(split)) for split in ("train", "validation", "test")]
    assert sum(sizes) == 5
    assert min(sizes) >= 1


def test_a_hugging_face_set_without_the_split_is_named(datasets: Any, tmp_path: Path) -> None:
    whole = hugging_face(datasets)
    datasets.DatasetDict({"a": whole, "b": whole}).save_to_disk(tmp_path / "hf")
    with pytest.raises(DataError, match="has the splits a, b; expected one named 'train'"):
        CustomDataset(str(tmp_path / "hf")).table("train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: cannot be loaded by Hugging Face datasets: "):
        CustomDataset(str(tmp_path / "empty")).table("train")
