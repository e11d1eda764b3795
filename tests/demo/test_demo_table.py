"""A table of questions, and images in files or archives, without Gradio."""

from __future__ import annotations

import csv
import io
import zipfile
from typing import Any

import pytest
from conftest import ROOT
from demo_server import untrained

import vlm
from vlm.asking import Answer
from vlm.datasets.readers.json_file import MemoryFile
from vlm.demo import table as module
from vlm.demo.asker import Asker
from vlm.demo.table import answer_table, unpack
from vlm.inference import VQA

IMAGE = (ROOT / "vlm/bundled/scenes/example.png").read_bytes()
WRITTEN = ("=HYPERLINK(1)", "-5", "@x")


@pytest.fixture(scope="module")
def asker() -> Asker:
    return Asker({"scenes": vlm.load("scenes"), "choices": VQA(untrained("choices"))})


def packed(method: int = zipfile.ZIP_DEFLATED, **files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def rows_of(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"))))


def test_each_row_has_its_answer_or_its_error(asker: Asker) -> None:
    lines = ["more;image;question"]
    lines += [
        f"{n};a.png;What shape is the {c} object?" for n, c in enumerate(("red", "pink") * 10)
    ]
    lines += ["x;b.png;What?", "y;a.png;", "z;/etc/passwd;Is it red?", "v;a.png;Quoi ?"]
    table = MemoryFile("in.csv", "\n".join(lines).encode())
    done: list[tuple[int, int]] = []
    found = answer_table(
        asker, "scenes", table, {"f/a.png": IMAGE}, lambda *given: done.append(given)
    )
    rows = rows_of(found.content)
    assert [row["prediction"] for row in rows[:20]] == ["triangle", "circle"] * 10
    expected = asker.models["scenes"].answer(IMAGE, "What shape is the red object?")
    assert float(rows[0]["probability"]) == pytest.approx(expected.probability, abs=1e-5)
    assert rows[1]["more"] == "1"
    pandas = MemoryFile("in.csv", b",image,question\n0,a.png,What shape is the red object?")
    (row,) = rows_of(answer_table(asker, "scenes", pandas, {"a.png": IMAGE}).content)
    assert row["prediction"] == "triangle"
    assert "'b.png', the name of none" in rows[20]["error"]
    assert "question is empty" in rows[21]["error"]
    assert "'/etc/passwd', the name of none" in rows[22]["error"]
    assert (rows[23]["prediction"], rows[23]["error"]) == ("", "")
    assert "guess" in rows[23]["warnings"]
    assert (found.rows, found.errors) == (24, 3)
    assert done == [(0, 24), (16, 24)]
    assert [row[:2] for row in found.head[:3]] == [
        ["b.png", "What?"],
        ["a.png", ""],
        ["/etc/passwd", "Is it red?"],
    ]
    assert all(row[4] for row in found.head[:3])
    pink = ["a.png", "What shape is the pink object?", "circle", found.head[4][3], ""]
    assert found.head[4] == pink, "then the others in their order"


def test_choices_come_with_their_rows(asker: Asker) -> None:
    table = MemoryFile(
        "in.csv", b"image,question,choices\na.png,is it?,red|the blue\na.png,is it?,red"
    )
    found = answer_table(asker, "choices", table, {"a.png": IMAGE})
    first, second = rows_of(found.content)
    assert first["prediction"] in ("red", "the blue")
    assert "got 1" in second["error"]


def test_choices_are_optional_for_models_that_write() -> None:
    """An empty cell is no list of one empty choice."""
    asked: list[list[list[str]]] = []

    class Writes(VQA):
        ranks_choices = True

        def answer(self, image: Any, question: Any, top_k: Any = 5, choices: Any = None) -> Any:
            asked.append(choices)
            return [Answer(text, 0.5, [(text, 0.5)]) for text in WRITTEN[: len(question)]]

    asker = Asker({"writes": Writes(vlm.load("scenes").model)})
    lines = ["image,question,choices", "a.png,is it?,", "a.png,is it?,red| blue", "a.png,is it?,"]
    table = MemoryFile("in.csv", "\n".join(lines).encode())
    rows = rows_of(answer_table(asker, "writes", table, {"a.png": IMAGE}).content)
    assert [row["error"] for row in rows] == ["", "", ""]
    assert asked[0] == [[], ["red", "blue"], []]
    # What a model reads in an image must not run in a spreadsheet.
    assert [row["prediction"] for row in rows] == ["'=HYPERLINK(1)", "-5", "'@x"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"image,question", "got 0 rows"),
        (b"image,question" + b"\na,b" * 1001, "more than 1,000 rows"),
        (b"picture,question\na,b", "image"),
        (b"image,question,error\na,b,c", "'error'"),
        (b"image,question,note,note\na,b,c,d", "the column 'note' appears twice"),
        (b"x," * 1_000_000 + b"\na,b", "1,000,000 columns"),
        (b'image,question\na,"' + b"b" * 5_000_000 + b'"', "5.0 MB"),
        (b"\x1f\x8b\x08\x00", "not text"),
        (b"PK\3\4", "a zip archive"),
    ],
)
def test_tables_that_cannot_be_answered(asker: Asker, content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        answer_table(asker, "scenes", MemoryFile("in.csv", content), {})
    assert "in.csv" in str(refused.value)


def test_a_table_that_takes_too_long(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", -1)
    table = MemoryFile("in.csv", b"image,question\na.png,Is it red?")
    assert answer_table(asker, "scenes", table, {"a.png": IMAGE}).errors == 1


def test_rows_that_fail_are_not_tried_again_after_the_end(
    asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each could hold the models for as long as a question may take."""
    tried: list[int] = []
    now = iter(range(100))

    def answers(name: str, contents: Any, rows: Any) -> Any:
        tried.append(len(rows))
        raise ValueError("It took longer than 60 s.")

    monkeypatch.setattr(module, "monotonic", lambda: next(now))
    monkeypatch.setattr(module, "SECONDS", 3)
    monkeypatch.setattr(asker, "answer_rows", answers)
    table = MemoryFile("in.csv", b"image,question" + b"\na.png,Is it red?" * 16)
    found = answer_table(asker, "scenes", table, {"a.png": IMAGE})
    assert tried == [16, 8, 4]
    errors = [row["error"] for row in rows_of(found.content)]
    assert len([error for error in errors if error.startswith("Not answered")]) == 16


def test_archives_are_unpacked_within_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert unpack([("a.zip", packed(**{"x/1.png": b"1"})), ("2.png", b"2")]) == {
        "x/1.png": b"1", "2.png": b"2",
    }  # fmt: skip
    with pytest.raises(ValueError, match="two files named '1'"):
        unpack([("a.zip", packed(**{"1": b"1"})), ("1", b"2")])
    with pytest.raises(ValueError, match="unusual method"):
        unpack([("a.zip", packed(zipfile.ZIP_LZMA, a=b"1"))])
    damaged = bytearray(packed(a=bytes(range(256)) * 9))
    damaged[40:60] = bytes(byte ^ 0x5A for byte in damaged[40:60])  # the deflated content
    with pytest.raises(ValueError, match=r"'a\.zip' cannot be unpacked"):
        unpack([("a.zip", bytes(damaged))])
    # Listing 100,000 folders takes seconds.
    with pytest.raises(ValueError, match="more than 2,000 files and folders"):
        unpack([("a.zip", packed(**{f"{n}/": b"" for n in range(2001)}))])
    broken = packed(a=bytes(1000)).replace(b"PK\1\2", b"PK\1\3")
    with pytest.raises(ValueError, match=r"'a\.zip' cannot be unpacked"):
        unpack([("a.zip", broken)])
    # A bomb is left before it is unpacked: of each file no more than the limit is read.
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    assert unpack([("a.zip", packed(a=bytes(10**6)))]) == {"a": bytes(11)}
    monkeypatch.setattr(module, "MAX_UNPACKED", 25)
    with pytest.raises(ValueError, match="more than"):
        unpack([("a.zip", packed(a=bytes(10**6), b=bytes(10**6), c=bytes(10**6)))])
