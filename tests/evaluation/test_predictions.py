"""Every format of answer file is read, and the error names whatever does not fit."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlm.datasets.errors import DataError
from vlm.evaluation.predictions import Predictions, read_predictions

QUESTIONS = ["what is it?", "Is it  red?", "who?"]
TABLE = pa.table({"id": ["7", "8", "9"], "question": QUESTIONS, "choices": [["cat", "dog"]] * 3})
GIVEN = {"7": "cat", "8": "no", "9": ""}


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def rows(key: str, answer: str, number: Callable[[str], Any] = str) -> list[dict[str, Any]]:
    return [{key: number(name), answer: text} for name, text in GIVEN.items()]


def sample(position: int, **more: Any) -> dict[str, Any]:
    """Make a sample as lmms-eval logs it."""
    asked = f"{QUESTIONS[position]}\nAnswer with one word."
    content = {"doc_id": position, "target": "['cat']", "input": asked, "exact_match": 0.0}
    return content | {"filtered_resps": [list(GIVEN.values())[position]], "doc_hash": "0"} | more


def read(tmp_path: Path, content: str, name: str = "answers.jsonl", **more: Any) -> Predictions:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    return read_predictions(path, TABLE, **more)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.out", "without"])
@pytest.mark.parametrize(
    "content",
    [
        lines(rows("id", "answer")),
        json.dumps(rows("question_id", "answer", int)),
        json.dumps(rows("question_id", "answer", int), indent=1),
        json.dumps(rows("questionId", "prediction")),
        "id,answer\n7,cat\n8,no\n9,\n",
        "question_id\tprediction\n7\tcat\n8\tno\n9\t\n",
        "\ufeffid;answer\r\n9;\r\n8;no\r\n7;cat\r\n",
        lines([sample(n) for n in (2, 0, 1)]),
        lines([sample(n, resps=[["long"]], doc={"question": QUESTIONS[n]}) for n in range(3)]),
    ],
)
def test_the_content_says_which_format_it_is(content: str, name: str, tmp_path: Path) -> None:
    found = read(tmp_path, content, name)
    assert {key: one.answer for key, one in found.by_id.items()} == GIVEN
    assert all(one.probability is None for one in found.by_id.values())
    assert found.table is TABLE


def test_packed_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv.gz"
    path.write_bytes(gzip.compress(b"id,answer\n7,cat\n8,no\n9,\n"))
    assert read_predictions(path, TABLE).by_id["7"].answer == "cat"
    pq.write_table(pa.table({"id": [7, 8, 9], "answer": list(GIVEN.values())}), tmp_path / "a")
    assert read_predictions(tmp_path / "a", TABLE).by_id["8"].answer == "no"


def test_our_own_lines_keep_all_that_they_say(tmp_path: Path) -> None:
    rows = [
        {"id": key, "answer": "cat", "probability": 0.25, "by_head": {"first": "dog"}}
        | {"watched": 0.125, "choices": ["cat", "dog"], "answers": ["dog"], "score": 0}
        for key in GIVEN
    ]
    found = read(tmp_path, lines(rows))
    one = found.by_id["8"]
    assert (one.answer, one.probability, one.watched) == ("cat", 0.25, 0.125)
    assert one.by_head == {"first": "dog"}
    assert found.choices
    found = read(tmp_path, "id,answer,probability\n7,cat,0.5\n8,no,\n9,x,1\n")
    assert [one.probability for one in found.by_id.values()] == [0.5, None, 1]
    assert not found.choices
    without = TABLE.set_column(2, "choices", pa.array([None] * 3, pa.list_(pa.string())))
    (tmp_path / "picked.jsonl").write_text(lines(rows))
    assert not read_predictions(tmp_path / "picked.jsonl", without).choices, "there are none"


def test_the_model_s_answer_is_read_and_not_the_annotators(tmp_path: Path) -> None:
    """A dump of a model's answers often contains both."""
    found = read(tmp_path, "id,answer,prediction\n7,gold,cat\n8,gold,no\n9,gold,x\n")
    assert found.by_id["7"].answer == "cat"
    assert "'prediction'" in found.matched
    assert "'id'" in found.matched


@pytest.mark.parametrize("holder", ["doc", "submission"])
def test_samples_go_by_their_question_id_where_they_have_one(holder: str, tmp_path: Path) -> None:
    positions = (1, 2, 0)  # not the order of the split
    content = lines(
        [sample(p, doc_id=n, **{holder: {"question_id": p + 7}}) for n, p in enumerate(positions)]
    )
    found = read(tmp_path, content)
    assert {key: one.answer for key, one in found.by_id.items()} == GIVEN
    assert "'question_id'" in found.matched
    assert "'doc_id'" in read(tmp_path, lines([sample(n) for n in range(3)])).matched


def test_samples_in_another_order_are_found_out(tmp_path: Path) -> None:
    """A sample's prompt must contain the question; case and spaces may differ."""
    ordered = [sample(n) for n in range(3)]
    ordered[1]["input"] = "is it red? Answer with one word."
    assert read(tmp_path, lines(ordered)).by_id["8"].answer == "no"
    ordered[0]["doc_id"], ordered[2]["doc_id"] = 2, 0
    with pytest.raises(DataError, match=r"line 1: doc_id 2 .*'what is it\?.*'who\?'.*'9'"):
        read(tmp_path, lines(ordered))


CSV = "id,answer\n7,cat\n8,no\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (CSV + "6,x\n5,x\n9,x\n", [", line 4: ", "'6'", "2 answers", "'7', '8', '9'", "--split"]),
        (CSV + "9,x\n7,y\n8,z\n", [", line 5: ", "'7'", ", line 2;", "2 repeated answers"]),
        (CSV, ["1 of the 3 validation", "'9'", "--partial", "the 2 that"]),
        (CSV + ",x\n", [", line 4: ", "''", "'id'"]),
        ("id,answer,probability\n7,cat,1.5\n", [", line 2: ", "'1.5'", "'probability'"]),
        ("id,answer,probability\n7,cat,nan\n", [", line 2: ", "'nan'", "'probability'"]),
        ("image,label\na.png,cat\n", [", line 2: ", "'image', 'label'", "question_id"]),
        (lines([{"id": "7", "answer": 3}] * 2), [", line 1: ", "'answer'", "3"]),
        (lines([{"id": "7", "answer": "x"}, {"id": "8"}]), [", line 2: ", "'answer'", "None"]),
        (lines([{"id": 7, "answer": "x"}, {"answer": "x"}]), [", line 2: ", "'id'", "None"]),
        (lines([{"id": 7.5, "answer": "x"}] * 2), [", line 1: ", "'id'", "7.5"]),
        (lines([{"id": True, "answer": "x"}] * 2), [", line 1: ", "'id'", "True", "whole"]),
        (lines([{"id": "7", "answer": "\ud800"}] * 2), [", line 1: ", "'answer'", "Unicode"]),
        (lines([{"id": "7", "answer": "x", "by_head": {"a": 1}}] * 2), [", line 1: ", "by_head"]),
        (lines([{"id": "7"}]) + "[7]\n", ["line 1", "'id'"]),
        (lines([{"id": "7", "answer": "x"}]) + "[7]\n", [", line 2", "[7]"]),
        (lines([{"id": "7", "answer": "x"}]) + "{\n", [", line 2", "not JSON"]),
        ("[]", ["no answers", "question_id"]),
        ("", ["empty"]),
        ('{"7": "cat"}', ["dict", "list of objects"]),
        (lines([sample(0, doc_id=3)] * 2), [", line 1: ", "3", "0 to 2"]),
        (lines([sample(0, doc_id=-1)] * 2), [", line 1: ", "-1", "0 to 2"]),
        (lines([sample(0), sample(1), sample(1)]), [", line 3: ", "'8'", ", line 2;"]),
        (
            lines([sample(0, filtered_resps=["a", "b"])] * 2),
            [", line 1: ", "'filtered_resps'", "'b'"],
        ),
        (lines([sample(0, filtered_resps=[[-1.5, False]])] * 2), [", line 1: ", "-1.5"]),
        (
            lines([sample(0, submission={"question_id": 7}), sample(1)]),
            [", line 2: ", "'question_id'", "None"],
        ),
    ],
)
def test_what_does_not_fit_is_named(content: str, said: list[str], tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        read(tmp_path, content, "answers.txt", split="validation")
    message = str(error.value)
    assert message.startswith(str(tmp_path / "answers.txt"))
    for part in said:
        assert part in message


def test_a_part_is_scored_where_that_is_asked_for(tmp_path: Path) -> None:
    found = read(tmp_path, "id,answer\n9,x\n7,cat\n", partial=True)
    assert found.table["id"].to_pylist() == ["7", "9"]
    assert set(found.by_id) == {"7", "9"}
    with pytest.raises(DataError, match="'6'"):
        read(tmp_path, "id,answer\n9,x\n6,cat\n", partial=True)


@pytest.mark.parametrize("begin", [b"PK\3\4", b"\xff\xfe\0", b"\x93NUMPY\0"])
def test_a_file_of_another_kind_is_refused(begin: bytes, tmp_path: Path) -> None:
    path = tmp_path / "answers"
    path.write_bytes(begin + bytes(100))
    with pytest.raises(DataError) as error:
        read_predictions(path, TABLE)
    assert str(error.value).startswith(str(path))
    with pytest.raises(FileNotFoundError, match="nosuch"):
        read_predictions(tmp_path / "nosuch", TABLE)


@pytest.mark.parametrize("end", ["csv", "jsonl"])
def test_a_table_without_some_answers_is_read_alike_in_both_forms(end: str, tmp_path: Path) -> None:
    """`vlm predict --dataset.path` leaves the answer out where the model can only guess."""
    said = {"probability": None, "warnings": "", "error": "missing image"}
    found = [{"id": key, "prediction": GIVEN[key] or None, **said} for key in GIVEN]
    content = lines(found)
    if end == "csv":
        cells = [["" if value is None else str(value) for value in row.values()] for row in found]
        content = "\n".join(map(",".join, [list(found[0]), *cells]))
    with pytest.raises(DataError, match=r"no answer to 1 of the 3 .* --partial"):
        read(tmp_path, content, f"answers.{end}")
    assert list(read(tmp_path, content, f"answers.{end}", partial=True).by_id) == ["7", "8"]


def test_a_sample_whose_question_is_no_object_is_taken_by_its_prompt(tmp_path: Path) -> None:
    samples = [sample(number, doc="what is it?") for number in range(3)]
    assert len(read(tmp_path, lines(samples)).by_id) == 3
