"""Lines of user data give questions to train on, or `DataError` with file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fuzzing import any_text, fuzz, json_values, mutated, tried
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vlm.data import VQADataModule
from vlm.data.check.check import check_data
from vlm.datasets import CustomDataset
from vlm.datasets.errors import DataError

WHOLE = [
    {"image": "a.png", "question": "what colour?", "answer": "red", "id": "q1"},
    {"image": "b.png", "question": "is it red?", "answers": ["yes", "yes", "no"], "id": 2},
    {"image": "b.png", "question": "which?", "answers": {"a cat": 7, "a dog": 3}, "type": "what"},
    {"image": {"path": "a.png"}, "question": "which?", "answers": [{"answer": "x", "count": 2}]},
    {"image": "a.png", "question": "pick", "choices": ["red", "blue"], "answer": "red"},
    {"image": "b.png", "question": "who?", "answer": "x", "group": "g", "answer_type": "other"},
]
values = st.one_of(
    json_values,
    st.sampled_from(["a.png", "", " ", "http://a/b.png", "data:image/png;base64,QUJD", "/", "."]),
    st.lists(st.fixed_dictionaries({"answer": json_values, "count": json_values}), max_size=3),
)


@st.composite
def row(draw: st.DrawFn) -> dict[str, Any]:
    """A valid row with some values changed."""
    made = dict(draw(st.sampled_from(WHOLE)))
    for _ in range(draw(st.integers(0, 3))):
        names = ["image", "question", "answer", "answers", "choices", "id", "group", "type"]
        made[draw(st.sampled_from(names) | any_text)] = draw(values)
    for name in draw(st.lists(st.sampled_from(list(made)), max_size=1)):
        del made[name]
    return made


@st.composite
def line(draw: st.DrawFn) -> bytes:
    kind = draw(st.sampled_from(("row", "row", "row", "mutated", "value", "bytes")))
    if kind == "bytes":
        return draw(st.binary(max_size=60))
    made = draw(json_values if kind == "value" else row())
    ascii_only = draw(st.booleans())
    written = json.dumps(made, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    return draw(mutated(written)) if kind == "mutated" else written


files = st.builds(
    lambda lines, end, mark: mark + end.join(lines) + end,
    st.lists(line(), max_size=5),
    st.sampled_from([b"\n", b"\r\n", b"\n\n"]),
    st.sampled_from([b"", b"", b"", b"\xef\xbb\xbf"]),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("lines")
    for name in ("a", "b"):
        Image.new("RGB", (4, 3)).save(made / f"{name}.png")
    return made


@fuzz
@given(content=files)
def test_any_lines_are_read_or_refused(folder: Path, content: bytes) -> None:
    path = folder / "my.jsonl"
    path.write_bytes(content)
    data = CustomDataset(str(path), validation=str(path))
    table, error = tried(lambda: data.table("train"), DataError)
    if error is not None:
        assert "my.jsonl" in error
        assert len(error) < 1500
        error.encode()
    else:
        for read in table.to_pylist():
            assert read["question"].strip()
            assert read["image"]
            assert read["id"]
            assert all(isinstance(answer, str) for answer in read["answers"])


@fuzz
@given(content=files)
def test_a_check_says_all_that_is_wrong_with_them(folder: Path, content: bytes) -> None:
    path = folder / "checked.jsonl"
    path.write_bytes(content)
    found = check_data(VQADataModule(CustomDataset(str(path), validation=str(path))), images=False)
    for kept in found.errors.kept.values():
        for message in kept:
            message.encode()
