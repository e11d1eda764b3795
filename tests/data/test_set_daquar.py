"""DAQUAR: reading miniatures of both layouts, and the real set where available."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT, shared_data
from PIL import Image

from vlm.cli.training_cli import VQACLI
from vlm.datasets import DAQUAR

QUESTIONS = """\
what is on the desk in the image3 ?
book, clock
what is found left of the image3 ?
book
how many lamps are on, in the image 12 ?
2
what color is the object in the image12 close to the door ?
red
what is under it in image7 ?
stool,stool, box

"""


def write(root: Path, text: str, name: str = "qa.894.raw.train.txt") -> Path:
    (root / name).write_text(text)
    return root


def test_the_official_text_files(tmp_path: Path) -> None:
    write(tmp_path, QUESTIONS)
    rows = DAQUAR(tmp_path).read("train").to_pylist()
    assert [(row["question"], row["answers"], row["answer_type"]) for row in rows] == [
        ("what is on the desk ?", ["book, clock"], "object"),
        ("what is found left ?", ["book"], "object"),
        ("how many lamps are on, ?", ["2"], "number"),
        ("what color is the object in the image12 close to the door ?", ["red"], "color"),
        ("what is under it ?", ["box, stool"], "object"),
    ]
    several = [row["question_type"] == "several answers" for row in rows]
    assert several == [True, False, False, False, True]
    assert [row["id"] for row in rows] == [f"train-{i}" for i in range(5)]
    images = [Path(row["image"]) for row in rows]
    assert [path.name for path in images] == [f"image{i}.png" for i in (3, 3, 12, 12, 7)]
    assert images[0].parent == tmp_path / "nyu_depth_images"


def test_validation_is_cut_from_the_training_photos(tmp_path: Path) -> None:
    write(tmp_path, QUESTIONS)
    write(tmp_path, "what is red in the image1 ?\nbed\n", "qa.894.raw.test.txt")
    write(tmp_path, "what is blue in the image2 ?\nbed\n", "qa.37.raw.train.txt")
    data = DAQUAR(tmp_path, validation_share=0.3)
    train, held_out = data.table("train"), data.table("validation")
    assert len(train) + len(held_out) == 5
    assert not set(train["image"].to_pylist()) & set(held_out["image"].to_pylist())
    assert data.table("test")["id"].to_pylist() == ["test-0"]
    assert (
        DAQUAR(tmp_path, part="reduced37").read("train")["question"][0].as_py() == "what is blue ?"
    )


def test_an_answer_is_a_set() -> None:
    data = DAQUAR(Path())
    assert data.score("clock,book", ["book, clock"]) == 1
    assert data.score("book, book, clock", ["book, clock"]) == 1
    assert data.score("book", ["book, clock"]) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("what is on the desk ?\nbook\n", "line 1: got 'what is on the desk .' and"),
        ("a in the image3 ?\nb\nc in the image4 ?\n", "line 3: got 'c in the image4 .' and the"),
        ("a in the image3 ?\nb\n\nc in the image4 ?\nd\n", "line 3: got '' and the answer 'c in"),
    ],
)
def test_lines_out_of_step_are_named(text: str, message: str, tmp_path: Path) -> None:
    write(tmp_path, text)
    with pytest.raises(ValueError, match=rf"qa\.894\.raw\.train\.txt, {message}"):
        DAQUAR(tmp_path).read("train")


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "qa.894.raw.train.txt").write_bytes(b"what in the image3 ?\nb\xff\n")
    with pytest.raises(ValueError, match=r"train\.txt, line 2, byte 22: not UTF-8"):
        DAQUAR(tmp_path).read("train")


def test_missing_files_say_where_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"qa\.37\.raw\.test\.txt.*mpi-inf\.mpg\.de"):
        DAQUAR(tmp_path, part="reduced37").read("test")


ROW = {"image": "images/a.jpg", "question": "what is red ?", "answers": ["pen", "bed"]}


def test_the_json_lines(tmp_path: Path) -> None:
    lines = [ROW | {"question_id": "t-0"}, ROW | {"question_id": "t-1", "answers": ["7"]}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    first, second = DAQUAR(write(tmp_path, text, "train.jsonl")).read("train").to_pylist()
    assert (first["id"], first["answers"], first["answer_type"]) == ("t-0", ["bed, pen"], "object")
    assert first["image"] == str(tmp_path / "images/a.jpg")
    assert (second["answers"], second["answer_type"]) == (["7"], "number")
    write(tmp_path, text.replace('["7"]', "[]"), "train.jsonl")
    with pytest.raises(ValueError, match=r"train\.jsonl, line 2: got the answers \[\]"):
        DAQUAR(tmp_path).read("train")


def test_the_real_set() -> None:
    root = shared_data("daquar")
    sizes = {"full": (6_795, 5_673), "reduced37": (3_876, 297)}
    for part, wanted in sizes.items():
        tables = [DAQUAR(root, part=part).read(split) for split in ("train", "test")]
        assert tuple(map(len, tables)) == wanted
        images = [set(table["image"].to_pylist()) for table in tables]
        assert not images[0] & images[1]
        assert all(Path(path).is_file() for path in images[1])
        for table, name in zip(tables, ("train", "test"), strict=True):
            file = root / (f"{name}.jsonl" if part == "full" else f"{name}_reduced37.jsonl")
            given = [json.loads(line) for line in file.read_text().splitlines()]
            assert table["answer_type"].to_pylist() == [row["answer_type"] for row in given]
            answers = [set(answer.split(", ")) for (answer,) in table["answers"].to_pylist()]
            assert answers == [set(row["answers"]) for row in given]
    types = Counter(DAQUAR(root).read("test")["answer_type"].to_pylist())
    assert types == {"object": 4_344, "number": 784, "color": 545}


def test_a_few_real_photos_train_through_the_command_line(tmp_path: Path) -> None:
    root = shared_data("daquar")
    for split, photos in (("train", 6), ("test", 2)):
        rows = [json.loads(line) for line in (root / f"{split}.jsonl").read_text().splitlines()]
        chosen = list(dict.fromkeys(row["image"] for row in rows))[:photos]
        kept = [row for row in rows if row["image"] in chosen]
        write(tmp_path, "".join(json.dumps(row) + "\n" for row in kept), f"{split}.jsonl")
        for name in chosen:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            with Image.open(root / name) as photo:
                photo.resize((64, 64)).save(tmp_path / name)
    cli = VQACLI(
        [
            "fit",
            f"-c={ROOT / 'configs/easy_vqa.yaml'}",
            "--dataset=vlm.datasets.DAQUAR",
            f"--dataset.root={tmp_path}",
            "--data.images_per_batch=2",
            "--dataset.validation_share=0.3",
            f"--run.folder={tmp_path / 'runs'}",
            "--trainer.max_epochs=1",
            "--trainer.enable_progress_bar=false",
        ]
    )
    report = json.loads((cli.run_folder / "test.json").read_text())
    assert {"object", "color", "number"} >= {row["type"] for row in report["results"][1:]}
    assert report["results"][0]["questions"] == len(cli.datamodule.table("test")) > 5
    assert 0 < report["results"][0]["ceiling"] < 1


def test_an_unknown_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="part: got 'single'; expected one of full, reduced37"):
        DAQUAR(tmp_path, part="single")  # type: ignore[arg-type]
