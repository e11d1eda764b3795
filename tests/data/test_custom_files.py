"""Custom data in every file format, with the location of every mistake."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from custom_files import write_rows

from vlm.datasets import CustomDataset
from vlm.datasets.errors import DataError
from vlm.datasets.readers.csv_file import read_csv
from vlm.datasets.table import SCHEMA

ROWS = [
    {"image": "a.png", "question": "what is it?", "answer": "cat", "id": "007", "type": "what"},
    {"image": "./a.png", "question": "is it, so to say, \"red\"?", "answer": "no", "id": "8"},
    {"image": "sub/b.png", "question": "מה זה? 🐈", "answer": "חתול", "id": "9"},
    {"image": "c.png", "question": "这是什么？", "answer": "红色", "id": "x"},  # noqa: RUF001  Chinese punctuation is meant
]  # fmt: skip


def table(path: Path, rows: list[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, names, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)


def parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    names = dict.fromkeys(name for row in rows for name in row)
    pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), path)


WRITERS: dict[str, Callable[[Path, list[dict[str, Any]]], Any]] = {
    "my.jsonl": write_rows,
    "my.ndjson": write_rows,
    "my.json": lambda path, rows: path.write_text(json.dumps(rows)),
    "my.csv": table,
    "my.tsv": table,
    "my.parquet": parquet,
}


def read(path: Path, split: str = "test", **arguments: Any) -> pa.Table:
    """Reads a split from its own file, with nothing held out."""
    files = {"path": path, "validation": path, "test": path}
    return CustomDataset(**{name: str(p) for name, p in files.items()}, **arguments).read(split)


def say(path: Path, split: str = "train", **arguments: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(path, split, **arguments)
    return str(caught.value)


@pytest.mark.parametrize(
    "end", [*WRITERS, *(f"{name}.gz" for name in WRITERS if "par" not in name)]
)
def test_every_kind_of_file_gives_the_same_questions(end: str, tmp_path: Path) -> None:
    name = end.removesuffix(".gz")
    path = tmp_path / name
    WRITERS[name](path, ROWS)
    if end != name:
        whole, path = path, tmp_path / end
        path.write_bytes(gzip.compress(whole.read_bytes()))
    found = read(path)
    assert found.schema == SCHEMA
    pictures = [str(tmp_path / p) for p in ("a.png", "a.png", "sub/b.png", "c.png")]
    assert found["image"].to_pylist() == pictures, "one image has one path"
    assert found["question"].to_pylist() == [row["question"] for row in ROWS]
    assert found["answers"].to_pylist() == [[row["answer"]] for row in ROWS]
    assert found["id"].to_pylist() == ["007", "8", "9", "x"], "ids stay texts"
    assert found["question_type"].to_pylist() == ["what", None, None, None]
    unit, first = {"json": ("entry", 1), "csv": ("line", 2), "tsv": ("line", 2)}.get(
        name.partition(".")[2], ("row" if "parquet" in name else "line", 1)
    )
    assert found["place"].to_pylist() == [f"{path}, {unit} {first + i}" for i in range(4)]


def test_all_columns_and_ten_answers_as_in_vqa_v2(tmp_path: Path) -> None:
    ten = [("net", "yes")] * 6 + [("a net", "maybe")] * 3 + [("mesh", "no")]
    row = {
        "image": "a.png",
        "question": "what is it?",
        "answers": [
            {"answer": a, "answer_confidence": c, "answer_id": i} for i, (a, c) in enumerate(ten, 1)
        ],
        "id": 458752000,
        "type": "what is",
        "answer_type": "other",
        "choices": ["net", "ball"],
        "group": 17,
        "unread": {"x": []},
    }
    for name in ("my.jsonl", "my.parquet"):
        other = {"id": 2, "pair": 458752000, "relation": "paraphrase"}
        first = row | {"unread": 1, "pair": None, "relation": None}
        WRITERS[name](tmp_path / name, [first, row | {"unread": 1} | other])
        found, second = read(tmp_path / name).to_pylist()
        assert (second["pair"], second["relation"]) == ("458752000", "paraphrase")
        assert [found] == [
            {
                "id": "458752000",
                "image": str(tmp_path / "a.png"),
                "question": "what is it?",
                "answers": [a for a, _ in ten],
                "answer_type": "other",
                "question_type": "what is",
                "choices": ["net", "ball"],
                "group": "17",
                "pair": None,
                "relation": None,
                "place": f"{tmp_path / name}, {'row' if 'parquet' in name else 'line'} 1",
            }
        ]


def test_lists_in_a_csv_file(tmp_path: Path) -> None:
    path = tmp_path / "my.csv"
    rows = [
        {"image": "a", "question": "?", "answers": "yes|no|yes", "choices": "yes|no"},
        {"image": "a", "question": "?", "answers": '["yes", "a|b"]', "choices": '["a|b", "c"]'},
        {"image": "a", "question": "?", "answers": '{"yes": 2, "no": 1}', "choices": ""},
    ]
    table(path, rows)
    found = read(path, "train")
    wanted = [["yes", "no", "yes"], ["yes", "a|b"], ["yes", "yes", "no"]]
    assert found["answers"].to_pylist() == wanted
    assert found["choices"].to_pylist() == [["yes", "no"], ["a|b", "c"], None]
    assert found["id"].to_pylist() == ["1", "2", "3"]


def test_a_row_of_dashes_is_none_under_the_header(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image,question\n---,:--\na.png,what?\n-,-\nb.png,-\n")
    rows = [cells for _, _, cells in read_csv(tmp_path / "a.csv", {"image", "question"}, ",")]
    assert [(each["image"], each["question"]) for each in rows] == [
        ("a.png", "what?"),
        ("-", "-"),
        ("b.png", "-"),
    ]


def test_a_cell_may_hold_a_line_break(tmp_path: Path) -> None:
    path = tmp_path / "my.csv"
    path.write_text('image,question,answer\na,"one\ntwo?",yes\nb,three?,no\n')
    found = read(path)
    assert found["question"].to_pylist() == ["one\ntwo?", "three?"]
    assert found["place"].to_pylist() == [f"{path}, line 2", f"{path}, line 4"]


def test_columns_of_other_names(tmp_path: Path) -> None:
    path = tmp_path / "my.jsonl"
    write_rows(path, [{"file": "a", "text": "what?", "label": "x", "answers": ["y"], "type": "t"}])
    names = {"image": "file", "question": "text", "answer": "label"}
    assert read(path, columns=names)["answers"].to_pylist() == [["x"]]
    del names["answer"]
    assert read(path, columns=names)["answers"].to_pylist() == [["y"]]


@pytest.mark.parametrize("name", ["my.jsonl", "my.parquet"])
def test_answers_win_over_answer(name: str, tmp_path: Path) -> None:
    row = {"image": "a", "question": "?"}
    given = [{"answer": None, "answers": ["z"]}, {"answer": "x", "answers": ["y"]},
             {"answer": "x", "answers": None}]  # fmt: skip
    WRITERS[name](tmp_path / name, [row | answers for answers in given])
    assert read(tmp_path / name, "train")["answers"].to_pylist() == [["z"], ["y"], ["x"]]


def test_paths_start_from_the_folder_of_images(tmp_path: Path) -> None:
    path = tmp_path / "my.jsonl"
    write_rows(
        path, [{"image": p, "question": "?", "answer": "x"} for p in ("a", "/b/../c", "d/../a")]
    )
    (tmp_path / "photos").mkdir()
    found = read(path, images=tmp_path / "photos")
    assert found["image"].to_pylist() == [str(tmp_path / "photos/a"), "/c", f"{tmp_path}/photos/a"]
    with pytest.raises(DataError, match="nosuch: there is no such folder"):
        CustomDataset(str(path), images=tmp_path / "nosuch").check_images()


GOOD = {"image": "a.png", "question": "what?", "answer": "x"}


@pytest.mark.parametrize(
    ("change", "column", "message"),
    [
        (
            {"question": ""},
            "question",
            "got the question ''; expected some text. Correct or remove",
        ),
        ({"question": " \t"}, "question", "got the question"),
        ({"question": None}, "question", "got the question None"),
        ({"question": 3}, "question", "got the question 3"),
        ({"question": "\ud83d"}, "question", "not valid Unicode"),
        ({"image": None}, "image", "image is missing or empty"),
        ({"image": " "}, "image", "image is missing or empty"),
        ({"image": 3}, "image", "got 3; expected the path of an image, its bytes, or a list"),
        ({"image": "https://a.b/c.png"}, "image", "got the address 'https://a.b/c.png'; .*downl"),
        ({"image": "s3://a/c.png"}, "image", "got the address"),
        ({"image": {"bytes": "no base64!"}}, "image", "expected an image in base64"),
        ({"answer": None}, "answer", "there is no answer; training and validation need one"),
        ({"answer": "  "}, "answer", "there is no answer"),
        ({"answer": ["x", ""]}, "answer", "with an empty answer"),
        ({"answer": True}, "answer", "got True; expected a text"),
        ({"answer": {"x": 0.2}}, "answer", "sum to 0.2"),
        ({"id": ""}, "id", "id is missing or empty"),
        ({"id": ["x"]}, "id", "got ['x']; expected a text"),
        ({"id": "1"}, "id", "the id is already used at {path}, line 1"),
        ({"choices": "x"}, "choices", "got 'x'; expected a list of choices"),
        ({"choices": ["x", None]}, "choices", "in which a choice is empty"),
        ({"type": ["x"]}, "type", "expected a text"),
        ({"group": {}}, "group", "expected a text"),
    ],
)
def test_a_mistake_names_file_line_and_column(
    change: dict[str, Any], column: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "my.jsonl"
    path.write_text(
        json.dumps(GOOD | {"id": "1"}) + "\n\n" + json.dumps(GOOD | {"id": "2"} | change)
    )
    said = say(path)
    assert said.startswith(f"{path}, line 3, column {column!r} (id ")
    message = message.format(path=path)
    start, _, end = message.partition(".*")
    assert start in said
    assert end in said


def test_a_mistake_names_the_files_own_column(tmp_path: Path) -> None:
    write_rows(tmp_path / "my.jsonl", [{"image": "a", "q": "", "a": "x"}])
    said = say(tmp_path / "my.jsonl", columns={"question": "q", "answer": "a"})
    assert "line 1, column 'q' (id '1')" in said


@pytest.mark.parametrize(
    ("row", "mapped", "example"),
    [
        (["file_name", "question", "label"], {}, "'{image: file_name, answer: label}'"),
        (["label", "question", "imagename"], {}, "'{image: imagename, answer: label}'"),
        (["file", "q", "an answer"], {"image": "file"},
         """'{image: file, answer: "an answer", question: q}'"""),
        (["image", "text", "answer", "source"], {}, "'{question: NAME}'"),
        (["image", "questions", "answer", "answer_type"], {}, "'{question: questions}'"),
    ],
)  # fmt: skip
def test_the_columns_that_are_likely_meant_are_named(
    row: list[str], mapped: dict[str, str], example: str, tmp_path: Path
) -> None:
    table(tmp_path / "my.csv", [dict.fromkeys(row, "x")])
    said = say(tmp_path / "my.csv", columns=mapped)
    assert said.endswith(f"such as --dataset.columns={example}.")


@pytest.mark.parametrize("name", WRITERS)
def test_a_missing_column_is_named_with_those_there(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name, [{"image": "a", "questoin": "what?", "answer": "x"}])
    said = say(tmp_path / name)
    assert "there is no column 'question'; the columns are 'image', 'questoin', 'answer'." in said
    assert "Did you mean 'questoin'?" in said
    assert "--dataset.columns" in said


def test_a_column_that_was_named_must_be_there(tmp_path: Path) -> None:
    path = tmp_path / "my.jsonl"
    write_rows(path, [GOOD, GOOD])
    assert "no row has a column 'kind'" in say(path, columns={"type": "kind"})
    assert "there is no column 'labl'" in say(path, columns={"answer": "labl"})
    # A test split may have no answers.
    assert read(path, "test", columns={"answer": "labl"})["answers"].to_pylist() == [None, None]
    with pytest.raises(ValueError, match=r"columns: got 'anwser'; .*Did you mean answer"):
        CustomDataset(str(path), columns={"anwser": "label"})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("my.jsonl", b'{"image": "a", "quest', "line 1, byte 15 "),
        ("my.jsonl", b"\n\n3\n\n4", "line 3, byte 2: got '3'; expected an object"),
        ("my.json", b'[{"image": "a"},\n{"image"', "line 2, byte 25 "),
        ("my.json", b"{}", "got a JSON dict; expected a list of objects"),
        ("my.json", b"[3]", "entry 1: got 3; expected an object"),
        ("my.csv", b"", "the file is empty"),
        ("my.csv", b"image,question,image\n", "line 1: the column 'image' appears twice"),
        ("my.csv", b"image,question,answer\na,is it, so?,x\n", "line 2: got 4 cells; expected 3"),
        ("my.csv", b'image,question,answer\na,b,c\na,"b,c\n', "line 3: a quote is not closed"),
        ("my.csv", "image,question,answer\ncaf\xe9,b,c".encode("latin-1"), "line 2, byte 25: not"),
        ("my.tsv", b'image\tquestion\tanswer\na\t"it" is?\tx\n', 'in "quotes"'),
        ("my.parquet", b"PAR1 no", "not a readable Parquet file"),
        ("my.xlsx", b"", "got a file of another format; expected one that ends in .jsonl"),
    ],
)
def test_a_broken_file_is_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    said = say(tmp_path / name)
    assert said.startswith(str(tmp_path / name))
    assert message in said


@pytest.mark.parametrize("name", [*WRITERS, "photos", "photos/my"])
def test_a_missing_file_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    said = say(Path(name))
    assert said.startswith(f"{name}: ")
    assert "no such file" in said or "another format" in said or "not installed" in said


def test_a_large_file_is_read_in_pieces(tmp_path: Path) -> None:
    """All rows of a large file are read alike, and repeated ids are found across pieces."""
    rows = [GOOD | {"id": f"q{i}", "image": f"{i % 7}.png"} for i in range(20_000)]
    write_rows(tmp_path / "my.jsonl", rows)
    found = read(tmp_path / "my.jsonl")
    assert found["id"].to_pylist() == [row["id"] for row in rows]
    rows[19_000]["id"] = "q3"
    write_rows(tmp_path / "my.jsonl", rows)
    said = say(tmp_path / "my.jsonl")
    assert "line 19001, column 'id' (id 'q3'): the id is already used at" in said
    assert "jsonl, line 4." in said
