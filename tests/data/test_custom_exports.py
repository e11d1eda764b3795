"""Custom data files as exported by pandas, Excel, LibreOffice and Google Sheets."""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_custom_files import read

from vlm.data import VQADataModule
from vlm.data.check.check import check_data
from vlm.datasets import CustomDataset
from vlm.datasets.errors import DataError, Problems, collecting
from vlm.datasets.readers.annotations import annotators_answers, cell_content
from vlm.datasets.readers.literals import content_of

pandas = pytest.importorskip("pandas", reason="comes with the extra `datasets`")

ROWS = [
    {"image": "a.png", "question": "is it, so to say, \"new\"?", "answer": "café"},
    {"image": "b.png", "question": "one\nor two?", "answer": "2"},
]  # fmt: skip


def content(path: Path) -> list[tuple[str, ...]]:
    found = read(path, "train")
    images = [Path(image).name for image in found["image"].to_pylist()]
    answers = [answers[0] for answers in found["answers"].to_pylist()]
    return list(zip(images, found["question"].to_pylist(), answers, strict=True))


WANTED = [tuple(row.values()) for row in ROWS]


def cells(delimiter: str, end: str) -> str:
    """Returns the rows as delimited text, quoted like Excel's."""

    def cell(text: str) -> str:
        plain = not any(mark in text for mark in (delimiter, '"', "\n"))
        return text if plain else '"' + text.replace('"', '""') + '"'

    rows = [list(ROWS[0]), *(row.values() for row in ROWS)]
    return "".join(delimiter.join(map(cell, row)) + end for row in rows)


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("English Excel, CSV UTF-8.csv", cells(",", "\r\n").encode("utf-8-sig")),
        ("German Excel, CSV UTF-8.csv", cells(";", "\r\n").encode("utf-8-sig")),
        ("Excel, Unicode text.txt", cells("\t", "\r\n").encode("utf-16")),
        ("Excel, Unicode text.csv", cells("\t", "\r\n").encode("utf-16")),
        ("big-endian.csv", b"\xfe\xff" + cells(",", "\r\n").encode("utf-16-be")),
        ("a mark twice.csv", b"\xef\xbb\xbf" + cells(",", "\n").encode("utf-8-sig")),
        ("with a hint.csv", ("sep=;\r\n" + cells(";", "\r\n")).encode()),
        ("with a quoted hint.csv", ('"sep=;"\r\n' + cells(";", "\r\n")).encode()),
        ("an old Mac.csv", cells(",", "\r").replace("one\nor", "one\ror").encode()),
        ("written twice.csv", cells(",", "\r\r\n").encode()),
        ("tabs.csv", cells("\t", "\n").encode()),
        ("bars.csv", cells("|", "\n").encode()),
        ("commas.tsv", cells(",", "\n").encode()),
        ("spaces after commas.csv", cells(", ", "\n").replace("café", '"café"').encode()),
        (
            "under a line.txt",
            cells("\t", "\n").replace("answer\n", "answer\n---\t:---\t---\n").encode(),
        ),
        ("no end.csv", cells(",", "\n").rstrip().encode()),
        ("packed.csv", gzip.compress(cells(",", "\n").encode(), mtime=0)),
        ("unpacked by a browser.csv.gz", cells(",", "\n").encode()),
        (
            "packed Unicode text.txt.gz",
            gzip.compress(cells("\t", "\r\n").encode("utf-16"), mtime=0),
        ),
        (
            "empty columns and rows.csv",
            b",,,,\n" + cells(",", ",,\n").encode() + b",,,,\n\n,,,,\n,,\n",
        ),
        ("PowerShell.jsonl", "".join(json.dumps(r) + "\r\n" for r in ROWS).encode("utf-16")),
        ("lines.json", "".join(json.dumps(row) + "\n" for row in ROWS).encode("utf-8-sig")),
        ("a list.jsonl", json.dumps(ROWS).encode()),
        ("a printed list.jsonl", json.dumps(ROWS, indent=1).encode()),
        ("inside.json", json.dumps({"info": {"x": 1}, "n": [1], "questions": ROWS}).encode()),
        ("by id.json", json.dumps({f"q{i}": row for i, row in enumerate(ROWS)}).encode()),
        ("of lists.json", json.dumps({n: [r[n] for r in ROWS] for n in ROWS[0]}).encode()),
    ],
)
def test_what_spreadsheets_and_shells_write_is_read(
    name: str, written: bytes, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(written)
    found = content(tmp_path / name)
    assert [tuple(t.replace("\r", "\n") for t in row) for row in found] == WANTED
    assert len(read(tmp_path / name).filter(pa.array([True, True]))) == 2


def test_ids_that_name_objects_are_theirs(tmp_path: Path) -> None:
    path = tmp_path / "my.json"
    path.write_text(json.dumps({"q7": ROWS[0], "q8": ROWS[1] | {"id": "own"}}))
    assert read(path)["id"].to_pylist() == ["q7", "own"]


def test_a_lone_object_is_a_lone_question(tmp_path: Path) -> None:
    path = tmp_path / "my.json"
    row = {"image": "a", "question": "?", "answers": [{"answer": "yes"}, {"answer": "no"}]}
    path.write_text(json.dumps(row))
    assert read(path, "train")["answers"].to_pylist() == [["yes", "no"]]


PANDAS: dict[str, Callable[[Any, Path], Any]] = {
    "my.csv": lambda frame, path: frame.to_csv(path),
    "no index.csv": lambda frame, path: frame.to_csv(path, index=False),
    "my.csv.gz": lambda frame, path: frame.to_csv(path),
    "my.tsv": lambda frame, path: frame.to_csv(path, sep="\t"),
    "german.csv": lambda frame, path: frame.to_csv(path, sep=";", decimal=","),
    "utf16.csv": lambda frame, path: frame.to_csv(path, encoding="utf-16"),
    "lines.json": lambda frame, path: frame.to_json(
        path, date_format="iso", orient="records", lines=True
    ),
    "lines.json.gz": lambda frame, path: frame.to_json(
        path, date_format="iso", orient="records", lines=True
    ),
    **{
        f"{orient}.json": lambda frame, path, orient=orient: frame.to_json(
            path, date_format="iso", orient=orient
        )
        for orient in ("records", "columns", "index", "split", "table")
    },
    "indented.json": lambda frame, path: frame.to_json(path, indent=2),
    "my.parquet": lambda frame, path: frame.to_parquet(path),
}


@pytest.mark.parametrize("name", PANDAS)
def test_what_pandas_writes_is_read(name: str, tmp_path: Path) -> None:
    frame = pandas.DataFrame(ROWS, index=[17, 18])
    PANDAS[name](frame, tmp_path / name)
    assert content(tmp_path / name) == WANTED


COUNTS = {
    "ints": [3, 0],
    "floats": [3.0, 0.0],
    "short floats": np.array([3, 0], "float32"),
    "nullable": pandas.array([3, 0], "Int64"),
    "with a gap": [3, None],
    "nullable with a gap": pandas.array([3, None], "Int64"),
    "texts": ["3", "0"],
    "categories": pandas.Categorical(["3", "0"]),
    "numbers as categories": pandas.Categorical([3, 0]),
    "decimals": [Decimal("3.00"), Decimal(0)],
    "objects": pandas.Series([3, "0"], dtype="object"),
    "lists": [[3], [0]],
    "lists of floats": [[3.0], [0.0]],
    "arrays": [np.array([3]), np.array([0])],
    "arrays of floats": [np.array([3.0]), np.array([0.0])],
}


@pytest.mark.parametrize("column", COUNTS)
@pytest.mark.parametrize("name", ["my.csv", "my.tsv", "lines.json", "records.json", "my.parquet"])
def test_a_count_is_one_answer_whatever_its_column(column: str, name: str, tmp_path: Path) -> None:
    values = COUNTS[column]
    if column == "objects" and name == "my.parquet":
        values = ["3", "0"]  # Arrow does not support such a column
    frame = pandas.DataFrame({"image": ["a", "b"], "question": "how many?"})
    frame["answer"] = pandas.Series(values)
    PANDAS[name](frame, tmp_path / name)
    with collecting(found := Problems(5)):
        answers = read(tmp_path / name, "train")["answers"].to_pylist()
    assert answers == ([["3"]] if "gap" in column else [["3"], ["0"]])
    assert found.counts == ({"no answer": 1} if "gap" in column else {})


@pytest.mark.parametrize("name", ["my.csv", "my.tsv", "lines.json", "records.json", "my.parquet"])
def test_a_number_is_as_short_as_it_was_written(name: str, tmp_path: Path) -> None:
    frame = pandas.DataFrame({"image": ["a", "b"], "question": "how long?"})
    frame["answer"] = np.array([2.5, 0.1], "float32")
    frame["id"] = [7.0, 8.0]
    frame["group"] = pandas.array(["x", None], "string")
    frame["type"] = pandas.to_datetime(["2020-01-01 10:00:00.000000001", None])
    PANDAS[name](frame, tmp_path / name)
    found = read(tmp_path / name, "train")
    answers = [float(answer) for (answer,) in found["answers"].to_pylist()]
    if name == "my.parquet":
        assert found["answers"].to_pylist() == [["2.5"], ["0.1"]]
    assert answers == pytest.approx([2.5, 0.1])
    assert found["group"].to_pylist() == ["x", None]
    assert found["question_type"][1].as_py() is None


LISTS = [["yes", "yes", "it's"], ["no", 'a "b"', "café"]]


@pytest.mark.parametrize("made", [list, np.array, tuple])
@pytest.mark.parametrize("name", [n for n in PANDAS if "table" not in n])
def test_a_list_column_of_pandas_is_lists(
    name: str, made: Callable[[Any], Any], tmp_path: Path
) -> None:
    frame = pandas.DataFrame({"image": ["a", "b"], "question": "?"})
    for column in ("answers", "choices"):
        frame[column] = [made(LISTS[0][1:]), made(LISTS[1])]
    PANDAS[name](frame, tmp_path / name)
    found = read(tmp_path / name, "train")
    assert found["answers"].to_pylist() == found["choices"].to_pylist() == [LISTS[0][1:], LISTS[1]]
    again = tmp_path / f"again {name}"
    if name == "my.csv":  # then through a data frame again, as texts
        for end in ("jsonl", "parquet"):
            again = tmp_path / f"again.{end}"
            frame = pandas.read_csv(tmp_path / name)
            PANDAS["my.parquet" if end == "parquet" else "lines.json"](frame, again)
            assert read(again, "train")["answers"].to_pylist() == [LISTS[0][1:], LISTS[1]]


def test_long_arrays_are_wrapped(tmp_path: Path) -> None:
    words = [f"a long answer, number {i}" for i in range(30)]
    frame = pandas.DataFrame({"image": ["a"], "question": "?", "answers": [np.array(words)]})
    frame.to_csv(tmp_path / "my.csv")
    assert "\n" in frame.to_csv().splitlines(keepends=True)[1]
    assert read(tmp_path / "my.csv", "train")["answers"].to_pylist() == [words]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Counter({'yes': 3, 'no': 1})", {"yes": 3, "no": 1}),
        ("[{'answer': 'yes', 'answer_confidence': 'maybe'}]",
         [{"answer": "yes", "answer_confidence": "maybe"}]),
        ("{'answer': array(['a', 'b'], dtype=object), 'count': array([3, 1])}",
         {"answer": ["a", "b"], "count": [3, 1]}),
        ("[np.str_('a'), np.float64(3.0), nan]", ["a", 3.0, None]),
        ("('yes', 'no')", ["yes", "no"]),
        ("{'yes', 'no'}", ["no", "yes"]),
        ("(3, 4)", "(3, 4)"),
        ("(a) yes (b)", "(a) yes (b)"),
        ("[sic", "[sic"),
        ("[unclear]", "[unclear]"),
        ("print('x')", "print('x')"),
    ],
)  # fmt: skip
def test_what_a_text_writes_out(text: str, wanted: Any) -> None:
    assert content_of(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "[yes, no]",
        "{yes,no}",
        "['a' 'b' ... 'c']",
        "[['a' 'b']\n ['c']]",
        "{1, 2}",
        "[__import__('os')]",
        'c("yes", "no")',
        "defaultdict(<class 'int'>, {'a': 1})",
    ],
)
def test_what_looks_like_a_list_and_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"looks like a list .* expected JSON, such as"):
        content_of(text)


PIECES = [*"[]{}(),:'\"\n\\|`#=-*_", "a", "3", "3.", " ", "nan", "array(", "np.str_(", "Counter(",
          "b'", "f'{", "...", "<NA>", "1e999", "lambda", "await", "\0", "é", "\u2028"]  # fmt: skip


def test_whatever_stands_in_brackets_is_read_or_refused() -> None:
    draw = random.Random(0)
    refused = 0
    for _ in range(5000):
        text = draw.choice(["[", "{", "(", "array(", ""]) + "".join(draw.choices(PIECES, k=9)) + "]"
        try:
            annotators_answers(cell_content(text))
        except ValueError:
            refused += 1
    assert 500 < refused < 4900


@pytest.mark.parametrize("nothing", ["nan", "NaN", "<NA>", "#N/A", "#NAME?", "\\N"])
def test_a_missing_value_is_no_text(nothing: str, tmp_path: Path) -> None:
    path = tmp_path / "my.csv"
    path.write_text(f"image,question,answer,group,type\na,?,x,{nothing},{nothing}\n")
    found = read(path, "train")
    assert found["group"].to_pylist() == found["question_type"].to_pylist() == [None]
    path.write_text(f"image,question,answer\na,?,{nothing}\n")
    with pytest.raises(DataError, match=re.escape(f"there is no answer (got {nothing!r}); ")):
        read(path, "train")
    path.write_text(f"image,question,answer\na,{nothing},x\n")
    with pytest.raises(
        DataError, match=rf"got {re.escape(repr(nothing))}, which stands for a missing value"
    ):
        read(path, "train")


@pytest.mark.parametrize(
    ("name", "written", "said"),
    [
        ("my.xlsx", b"PK\3\4\x14\0\6\0", "a zip archive or a workbook .* 'CSV UTF-8'"),
        ("my.csv", b"PK\3\4\x14\0\6\0", "a zip archive or a workbook"),
        ("my.xls", b"\xd0\xcf\x11\xe0\xa1\xb1", "an old Excel workbook"),
        ("my.csv.bz2", b"BZh91AY", "packed with bzip2. Unpack it"),
        ("my.jsonl.zst", b"\x28\xb5\x2f\xfd", "packed with zstd"),
        ("my.jsonl", b"PAR1\x15", "a Parquet file. End its name in .parquet"),
        ("my.pkl", b"\x80\x05\x95", "a pickle. It could run any code"),
        ("my.feather", b"ARROW1\0\0", "an Arrow or Feather file"),
        ("my.csv", b"<!DOCTYPE html>\n<html>", "a web page. Download the file itself"),
        ("my.csv", b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        ("my.csv", cells(",", "\n").encode("utf-16-le"), "not text, or not UTF-8. Save it as"),
        ("my.csv", cells(",", "\n").encode("utf-32"), "not text, or not UTF-8"),
        ("my.csv", cells(";", "\r\n").encode("cp1252") * 3,
         r"line 2, byte 61: not UTF-8 text; save .* \(in Excel as 'CSV UTF-8'\)"),
        ("my.jsonl", (json.dumps(ROWS[0], ensure_ascii=False) + "\n").encode("cp1252") * 9,
         r"line 1, byte \d+: not UTF-8"),
        ("my.json", b"".join(json.dumps(r, indent=1).encode() for r in ROWS),
         r"not JSON \(Extra data\). Expected one list of objects, or one object on each line.$"),
        ("my.json", b'{"image": "a", "quest\n{"image": "b"}\n', r"not JSON \([^.]*\)\.$"),
        ("values.json", b'[["a.png","?","x"],["b.png","?","y"]]', "orient='records'"),
        ("coco.json", b'{"images": [{"id": 1}], "annotations": [{"id": 2}]}',
         "a JSON dict with 'images', 'annotations'; expected a list of objects"),
    ],
)  # fmt: skip
def test_the_rest_is_refused_once_with_the_cause(
    name: str, written: bytes, said: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(written)
    with pytest.raises(DataError, match=said) as caught:
        read(tmp_path / name, "train")
    assert "cut short" not in str(caught.value)
    found = check_data(VQADataModule(CustomDataset(str(tmp_path / name))), images=False)
    assert sum(found.errors.counts.values()) == 1
    assert not found.warnings.counts


def test_images_of_hugging_face_in_a_text(tmp_path: Path) -> None:
    """An image dictionary that pandas wrote to a CSV file as Python text is read back."""
    image = {"bytes": b"\x89PNG\r\n", "path": None}
    frame = pandas.DataFrame({"image": [image], "question": "?", "answer": "x"})
    frame.to_csv(tmp_path / "my.csv")
    data = CustomDataset(str(tmp_path / "my.csv"), test=str(tmp_path / "my.csv"))
    (key,) = data.read("test")["image"].to_pylist()
    assert data.image_source(key) == image["bytes"]


def test_addresses_of_files_are_paths(tmp_path: Path) -> None:
    path = tmp_path / "my.csv"
    path.write_text("image,question\nfile:///photos/a%20b.png,?\n")
    assert read(path)["image"].to_pylist() == ["/photos/a b.png"]


@pytest.mark.parametrize(
    ("name", "written", "kind", "said"),
    [
        ("my.jsonl", "{'image': 'a'}\n" * 3, "unreadable line", r"double quotes\)\.$"),
        ("my.jsonl", '{"image": "a"},\n' * 3, "unreadable line", "Extra data.*one object on each"),
        ("my.csv", 'image,question,answer\na,"\\"red\\"?",x\n' * 2, "unreadable line", "twice"),
        ("my.csv", "image,question,answer\na,?,'{yes,no}'\n".replace("'", '"') * 2, "wrong answer",
         "looks like a list or an object"),
        ("my.csv", "My data,,\n\na,?,x\n", "missing column", "The first line must name the col"),
        ("my.json", '[{"image_id": 1, "question": "?", "question_id": 2}]', "missing column",
         r"such as --dataset.columns='\{image: image_id\}'\.$"),
    ],
)  # fmt: skip
def test_a_cause_is_not_followed_by_what_comes_of_it(
    name: str, written: str, kind: str, said: str, tmp_path: Path
) -> None:
    """If every row fails for the same reason, the missing rows are not a second error."""
    (tmp_path / name).write_text(written)
    found = check_data(VQADataModule(CustomDataset(str(tmp_path / name))), images=False)
    assert list(found.errors.counts) == [kind]
    assert re.search(said, found.errors.kept[kind][0])


def test_paths_of_windows(tmp_path: Path) -> None:
    (tmp_path / "odd\\name.png").touch()
    (tmp_path / "pics").mkdir()
    (tmp_path / "pics/000.png").touch()
    path = tmp_path / "my.csv"
    path.write_text("image,question,answer\npics\\000.png,?,x\nodd\\name.png,?,x\n")
    images = read(path)["image"].to_pylist()
    assert images == [str(tmp_path / "pics/000.png"), str(tmp_path / "odd\\name.png")]


def test_parquet_s_own_types(tmp_path: Path) -> None:
    table = pa.table(
        {
            "image": pa.array(["a", "b"], pa.large_string()),
            "question": pa.array(["x?", "y?"]).dictionary_encode(),
            "answers": pa.array([["3", "4"], ["5"]], pa.large_list(pa.large_string())),
            "choices": pa.array([["3", "9"], ["5", "9"]], pa.list_(pa.string(), 2)),
            "group": pa.array([1, 2], pa.timestamp("ns")),
            "type": pa.array([1, 2], pa.date32()),
            "id": pa.array([Decimal("1.00"), Decimal("2.00")], pa.decimal128(9, 2)),
        }
    )
    pq.write_table(table, tmp_path / "my.parquet")
    found = read(tmp_path / "my.parquet", "train")
    assert found["answers"].to_pylist() == [["3", "4"], ["5"]]
    assert found["choices"].to_pylist() == [["3", "9"], ["5", "9"]]
    assert found["id"].to_pylist() == ["1", "2"]
    assert found["question_type"].to_pylist() == ["1970-01-02", "1970-01-03"]
    assert len(set(found["group"].to_pylist())) == 2
