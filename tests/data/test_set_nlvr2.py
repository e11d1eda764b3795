"""NLVR2: reading a miniature in the official layout, and the consistency metric."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vlm.datasets import NLVR2
from vlm.datasets.several import different_images, images_of, most_images


def example(identifier: str, label: str = "True", **changes: Any) -> dict[str, Any]:
    record = {
        "sentence": f"There is a dog {identifier[-1]}.",
        "left_url": "https://a.b/left.jpg",
        "right_url": "https://a.b/right.jpg",
        "label": label,
        "identifier": identifier,
    }
    return record | changes


def examples(part: str) -> list[dict[str, Any]]:
    """Two pairs of one set with two sentences each; only train has folders."""
    more = {"directory": 7} if part == "train" else {}
    labels = {(1, 1): "False"}
    return [
        example(f"{part}-4-{pair}-{sentence}", labels.get((pair, sentence), "True"), **more)
        for pair in range(2)
        for sentence in range(2)
    ]


def save(root: Path, part: str, records: list[dict[str, Any]]) -> None:
    (root / "data").mkdir(exist_ok=True)
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (root / "data" / f"{part}.json").write_text(lines)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for part in ("train", "dev", "test1"):
        save(tmp_path, part, examples(part))
    return tmp_path


def test_a_question_has_a_left_and_a_right_image(root: Path) -> None:
    data = NLVR2(root)
    table = data.table("train")
    assert images_of(table["image"][3].as_py()) == [
        str(root / f"images/train/7/train-4-1-img{side}.png") for side in (0, 1)
    ]
    assert images_of(data.table("validation")["image"][0].as_py()) == [
        str(root / f"images/dev/dev-4-0-img{side}.png") for side in (0, 1)
    ]
    assert table["id"].to_pylist()[2] == "train-4-1-0"
    assert table["answers"].to_pylist() == [["true"]] * 3 + [["false"]]
    assert table["choices"][0].as_py() == ["true", "false"]
    assert most_images(table["image"]) == 2
    assert len(different_images(table["image"])) == 4
    assert set(table["group"].to_pylist()) == {"train-4"}


def test_consistency_wants_every_pair_of_a_sentence(root: Path) -> None:
    data = NLVR2(root)
    table = data.table("test")
    # Sentence 0 is in rows 0 and 2, sentence 1 in rows 1 and 3.
    assert data.summarize(table, ["true"] * 4, [1, 1, 1, 0]) == {"consistency": 0.5}
    assert data.summarize(table, ["true"] * 4, [0, 0, 1, 1]) == {"consistency": 0}
    assert data.summarize(table, ["true"] * 4, [1, 1, 1, 1]) == {"consistency": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "maybe"}, "got the label 'maybe'"),
        ({"identifier": "dev-4-0"}, "identifier 'dev-4-0'; expected true or false, and a name"),
        ({"sentence": None}, "got None for 'sentence'; expected a text"),
        ({"identifier": "dev-4-0-0"}, "the id is already used at .*line 1"),
    ],
)
def test_a_wrong_line_is_named(change: dict[str, Any], message: str, root: Path) -> None:
    first, second, *_ = examples("dev")
    save(root, "dev", [first, second | change])
    with pytest.raises(ValueError, match=rf"dev\.json, (line|question) 2.*{message}"):
        NLVR2(root).table("validation")


def test_a_missing_file_says_where_to_get_the_set(root: Path) -> None:
    (root / "data/test1.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"test1\.json.*github\.com/lil-lab/nlvr"):
        NLVR2(root).table("test")
