"""LLaVA's conversation files are read as questions, and their mistakes are named by position."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import vlm
from vlm.cli.main import main
from vlm.datasets.errors import DataError


def conversation(*texts: str, image: str = "0.png", **more: Any) -> dict[str, Any]:
    turns = [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]
    return {"image": image, "conversations": turns, **more}


def written(folder: Path, records: list[Any], name: str = "llava.json") -> Path:
    for number in range(4):
        Image.new("RGB", (8, 8), (60 * number, 9, 9)).save(folder / f"{number}.png")
    path = folder / name
    lines = name.endswith("jsonl")
    text = "".join(json.dumps(r) + "\n" for r in records) if lines else json.dumps(records)
    path.write_text(text)
    return path


GOOD = [
    conversation("<image>\nWhat is it?", "a cat", "And its color?", "red", id="a"),
    *(
        conversation("What is it?\n<image>", "a dog", image=f"{n}.png", id=str(n))
        for n in (1, 2, 3)
    ),
]


def rows(path: Path, **options: Any) -> list[dict[str, Any]]:
    data = vlm.datasets.CustomDataset(path, test=path, allow_shared_questions=True, **options)
    return list(data.table("test").to_pylist())


@pytest.mark.parametrize("name", ["llava.json", "llava.jsonl"])
def test_the_first_turns_are_a_question_and_its_answer(tmp_path: Path, name: str) -> None:
    found = rows(written(tmp_path, GOOD, name))
    assert [row["id"] for row in found] == ["a", "1", "2", "3"]
    assert found[0]["question"] == "What is it?"
    assert found[0]["answers"] == ["a cat"]
    assert found[1]["question"] == "What is it?"
    assert Path(found[1]["image"]).name == "1.png"


def test_an_id_may_be_an_image_s(tmp_path: Path) -> None:
    """LLaVA's files give all conversations about an image its id."""
    again = conversation("What else?", "grass", id="a")
    found = rows(written(tmp_path, [*GOOD, again, again]))
    assert [row["id"] for row in found] == ["a", "1", "2", "3", "a#2", "a#3"]


def test_the_id_may_have_another_name(tmp_path: Path) -> None:
    again = conversation("What else?", "grass", id="a")
    named = [{"uid": record.get("id", n), **record} for n, record in enumerate([*GOOD, again])]
    for record in named:
        record.pop("id", None)
    path = written(tmp_path, named)
    found = rows(path, columns={"id": "uid"})
    assert [row["id"] for row in found] == ["a", "1", "2", "3", "a#2"]
    found = rows(path, columns={"id": "uid"}, dialogue=True)
    assert [row["id"] for row in found] == ["a/1", "a/2", "1/1", "2/1", "3/1", "a#2/1"]


def test_with_dialogue_later_turns_carry_what_was_said(tmp_path: Path) -> None:
    found = rows(written(tmp_path, GOOD), dialogue=True)
    assert [row["id"] for row in found] == ["a/1", "a/2", "1/1", "2/1", "3/1"]
    assert found[1]["question"].split("\n") == ["What is it?", "a cat", "And its color?"]
    assert found[1]["answers"] == ["red"]


def test_the_image_may_have_another_name(tmp_path: Path) -> None:
    named = [{"file": record["image"], **record} for record in GOOD]
    for record in named:
        del record["image"]
    found = rows(written(tmp_path, named), columns={"image": "file"})
    assert [Path(row["image"]).name for row in found] == ["0.png", "1.png", "2.png", "3.png"]


BAD = {
    "entry 2: conversations: got 1 turns; expected an even number": conversation("What?"),
    "entry 2: conversations: got None": {"image": "0.png", "conversations": None},
    "entry 2: conversations[0]: got {'from': 'gpt'": {
        "image": "0.png",
        "conversations": [{"from": "gpt", "value": "x"}, {"from": "human", "value": "y"}],
    },
    "entry 2: conversations[3]: got {'from': 'gpt', 'value': 7}": conversation("a", "b", "c", 7),  # type: ignore[arg-type]
    "entry 2: conversations[0]: got '<image>'; expected a text": conversation("<image>", "b"),
    "entry 2: conversations: got 2 of <image>": conversation("<image> a <image>", "b"),
    "entry 2: conversations[1]: got 'cat'": {
        "image": "0.png",
        "conversations": [{"from": "human", "value": "x"}, "cat"],
    },
}


@pytest.mark.parametrize("message", BAD)
def test_a_malformed_record_is_named_with_its_position(tmp_path: Path, message: str) -> None:
    path = written(tmp_path, [GOOD[0], BAD[message], *GOOD[1:]])
    with pytest.raises(DataError) as caught:
        vlm.datasets.CustomDataset(path).table("train")
    assert f"{path}, {message}" in str(caught.value)


def test_check_data_names_every_malformed_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, [*GOOD, *BAD.values()])
    with pytest.raises(SystemExit):
        main(["check-data", "configs/own_data.yaml", "--dataset.path", str(path)])
    shown = "".join(capsys.readouterr())
    assert "malformed conversation" in shown
    assert f"{path.name}, entry 5: conversations: got 1 turns" in shown.replace("\n", "")


def test_a_conversation_without_an_image(tmp_path: Path) -> None:
    path = written(tmp_path, [{"id": "t", "conversations": GOOD[0]["conversations"]}, *GOOD])
    with pytest.raises(DataError, match=r"entry 1, conversations\[0\], column .image."):
        vlm.datasets.CustomDataset(path).table("train")


def test_predict_answers_the_first_questions(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    main(["predict", "easy_vqa", "--dataset.path", str(path)])
    lines = (tmp_path / "llava_answers.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert [row["question"] for row in found] == ["What is it?"] * 4
    assert {"prediction", "probability", "answer"} <= found[0].keys()
