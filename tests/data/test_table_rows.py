"""Taking many table rows at once, in any order, gives the same values as one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from vlm.data import table_rows
from vlm.data.table_rows import TableRows
from vlm.datasets.arrow import map_arrow, write_arrow
from vlm.datasets.table import SCHEMA

COLUMNS = ["id", "question", "answers", "choices", "group"]
CHUNK = 7
ROWS = [
    {
        "id": f"q{number}",
        "image": f"{number // 3}.png",
        "question": ("what is it?", "", "是什么 🙂", "a\nb")[number % 4],
        "answers": None if number % 5 == 2 else [f"a{n}" for n in range(number % 5)],
        "choices": [["x", "y", "x"], None, ["y", "é"]][number % 3],
        "group": None if number % 2 else f"g{number % 3}",
    }
    for number in range(31)
]


@pytest.fixture(params=["made beforehand", "in memory", "mapped"])
def table(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> pa.Table:
    """A table of five chunks; the last has three rows."""
    if request.param != "made beforehand":
        monkeypatch.setattr(table_rows, "SMALL", 0)
    parts = [ROWS[start : start + CHUNK] for start in range(0, len(ROWS), CHUNK)]
    made = pa.Table.from_batches([pa.RecordBatch.from_pylist(part, SCHEMA) for part in parts])
    if request.param != "mapped":
        return made
    with (tmp_path / "table.arrow").open("wb") as file:
        write_arrow(file, made.to_batches(), SCHEMA)
    return map_arrow(tmp_path / "table.arrow")


def wanted(table: pa.Table, rows: list[int]) -> list[list[Any]]:
    columns = [[table[name][row].as_py() for row in rows] for name in COLUMNS]
    return [[tuple(v) if isinstance(v, list) else v for v in values] for values in columns]


@pytest.mark.parametrize(
    "rows",
    [
        [0],
        [30, 0, 13, 14, 6, 7],
        [3, 3, 29, 3],  # a row requested twice is returned twice
        list(range(7, 14)),
        list(range(31)),
        list(range(30, -1, -1)),
        [],
    ],
)
def test_they_are_those_of_one_after_the_other(table: pa.Table, rows: list[int]) -> None:
    found = TableRows(table, COLUMNS).take(np.array(rows, dtype=np.int64))
    assert found == wanted(table, rows)
    assert found[:2] == [[ROWS[row][name] for row in rows] for name in ("id", "question")]


def test_any_order_gives_each_row_its_own_values(table: pa.Table) -> None:
    rows = TableRows(table, COLUMNS)
    for seed in range(20):
        order = np.random.default_rng(seed).integers(0, 31, 11)
        assert rows.take(order)[0] == [f"q{number}" for number in order]


def test_slices_and_empty_chunks(table: pa.Table) -> None:
    """Rows can be taken from a slice and from a table with an empty chunk."""
    part = table.slice(5, 17)
    assert TableRows(part, COLUMNS).take(np.array([16, 0, 2])) == wanted(part, [16, 0, 2])
    kept = np.r_[0:7, 14:31]
    batches = table.to_batches()
    sparse = pa.Table.from_batches([batches[0], batches[1].slice(0, 0), *batches[2:]])
    ids, *_ = TableRows(sparse, COLUMNS).take(np.arange(len(kept)))
    assert ids == [f"q{number}" for number in kept]


def test_equal_texts_are_one_object(table: pa.Table) -> None:
    """Equal choices share one object, so a loader worker sends each text only once."""
    _, _, _, choices, _ = TableRows(table, COLUMNS).take(np.array([0, 3, 27]))
    assert choices == [("x", "y", "x")] * 3
    assert len({id(text) for given in choices for text in given}) == 2
    assert len(set(map(id, choices))) == 1


def test_a_table_without_rows() -> None:
    empty = TableRows(SCHEMA.empty_table(), COLUMNS)
    assert empty.take(np.empty(0, dtype=np.int64)) == [[]] * len(COLUMNS)
