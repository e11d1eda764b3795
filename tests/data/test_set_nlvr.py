"""NLVR: reading a miniature in the official layout, and the consistency metric."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vlm.datasets import NLVR


def example(identifier: str, label: str, **changes: Any) -> dict[str, Any]:
    record = {
        "sentence": f"There is a box {identifier}.",
        "label": label,
        "identifier": identifier,
        "directory": "4",
        "evals": {"r0": label},
        "structured_rep": [[], [], []],
    }
    return record | changes


EXAMPLES = [example("7-0", "true"), example("7-2", "False"), example("11-0", "true")]


def save(root: Path, split: str, examples: list[dict[str, Any]]) -> None:
    (root / split).mkdir(exist_ok=True)
    lines = "".join(json.dumps(record) + "\n" for record in examples)
    (root / split / f"{split}.json").write_text(lines)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split in ("train", "dev", "test"):
        save(tmp_path, split, EXAMPLES)
    return tmp_path


def test_an_example_is_six_questions(root: Path) -> None:
    data = NLVR(root)
    for split, name in (("train", "train"), ("validation", "dev"), ("test", "test")):
        rows = data.table(split).to_pylist()
        assert len(rows) == 18
        assert [row["id"] for row in rows[5:8]] == [
            f"{name}-7-0-5",
            f"{name}-7-2-0",
            f"{name}-7-2-1",
        ]
        assert rows[7]["image"] == str(root / f"{name}/images/4/{name}-7-2-1.png")
        assert rows[7]["question"] == "There is a box 7-2."
        assert [row["answers"] for row in rows[::6]] == [["true"], ["false"], ["true"]]
        assert all(row["choices"] == ["true", "false"] for row in rows)
        assert {row["group"] for row in rows} == {"4"}


def test_consistency_wants_a_whole_presentation(root: Path) -> None:
    data = NLVR(root)
    table = data.table("test")
    right = [1.0] * 18
    assert data.summarize(table, ["true"] * 18, right) == {"consistency": 1}
    # One of the twelve answers to presentation 7 is wrong; 11 stays right.
    right[8] = 0.0
    assert data.summarize(table, ["true"] * 18, right) == {"consistency": 0.5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "maybe"}, "got the label 'maybe'"),
        ({"identifier": "7"}, "and identifier '7'; expected true or false, and two numbers"),
        ({"sentence": None}, "got None for 'sentence'; expected a text"),
        ({"sentence": ""}, "got the question ''; expected some text"),
        ({"identifier": "7-0"}, "the id is already used at .*line 1"),
    ],
)
def test_a_wrong_line_is_named(change: dict[str, Any], message: str, root: Path) -> None:
    save(root, "dev", [EXAMPLES[0], EXAMPLES[1] | change])
    with pytest.raises(ValueError, match=rf"dev\.json, (line|question) 2.*{message}"):
        NLVR(root).table("validation")


def test_a_file_that_is_missing_or_broken(root: Path) -> None:
    (root / "dev/dev.json").write_text('{"sentence": "a"}\n{"sentence": ')
    with pytest.raises(ValueError, match=r"dev\.json, question 1: got nothing for 'identifier'"):
        NLVR(root).table("validation")
    (root / "dev/dev.json").write_text(json.dumps(EXAMPLES[0]) + '\n{"sentence": ')
    with pytest.raises(ValueError, match=r"dev\.json, line 2, byte \d+ .*not JSON"):
        NLVR(root).table("validation")
    (root / "test/test.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"test\.json.*github\.com/lil-lab/nlvr"):
        NLVR(root).table("test")
