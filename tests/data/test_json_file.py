"""Errors in JSON and JSON Lines files name the file, line and byte."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest

from vlm.datasets.errors import DataError, Problems, collecting
from vlm.datasets.readers.json_file import read_json, read_json_lines

CONTENT = [{"question": "q1", "emoji": "🐈"}, {"question": "שלום"}]


def packed(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_json_is_read(name: str, mark: bytes, tmp_path: Path) -> None:
    text = json.dumps(CONTENT, ensure_ascii=False).encode()
    assert read_json(packed(tmp_path / name, mark + text)) == CONTENT


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_lines_are_read_with_their_numbers(name: str, mark: bytes, tmp_path: Path) -> None:
    lines = [json.dumps(row, ensure_ascii=False).encode() for row in CONTENT]
    path = packed(tmp_path / name, mark + lines[0] + b"\r\n\n  \n" + lines[1])
    assert list(read_json_lines(path)) == [(1, CONTENT[0]), (4, CONTENT[1])]


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_truncated_json_names_line_and_byte(name: str, tmp_path: Path) -> None:
    text = '[\n {"a": "é"},\n {"b": '.encode()
    path = packed(tmp_path / name, text)
    where = f"^{re.escape(str(path))}, line 3, byte {len(text)} .*ends at byte {len(text)}.*get it"
    with pytest.raises(DataError, match=where):
        read_json(path)


def test_the_byte_is_that_of_the_file(tmp_path: Path) -> None:
    """The byte position accounts for a byte order mark and multi-byte characters."""
    text = b"\xef\xbb\xbf" + '["é🐈", x]'.encode()
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(DataError, match=rf"line 1, byte {text.index(b'x')} "):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_an_object_that_is_not_closed_is_one_of_its_own_line(end: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1' + end + b'{"b": 2}' + end)
    with pytest.raises(DataError, match=r"line 1, byte 7 \(column 8\): not JSON .*bracket may be"):
        next(read_json_lines(path))


def test_a_truncated_line_names_line_and_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n{"b": "no end')
    lines = read_json_lines(path)
    assert next(lines) == (1, {"a": 1})
    with pytest.raises(DataError, match=r"a\.jsonl, line 2, byte 15 .*Unterminat.*cut short, get"):
        next(lines)


def test_a_line_that_others_follow_is_not_said_to_be_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n{"b": "no end}\n{"c": 3}\n')
    with pytest.raises(DataError) as caught:
        list(read_json_lines(path))
    assert str(caught.value) == (
        f"{path}, line 2, byte 15 (column 7): not JSON (Unterminated string starting here). A "
        f"quote or a bracket may be unclosed."
    )
    path.write_text('{"b": "\\x"}\n')
    with pytest.raises(DataError, match=r"\(column 8\): not JSON \(Invalid \\escape\)"):
        list(read_json_lines(path))
    (tmp_path / "a.json").write_text('["no end]\n')
    with pytest.raises(DataError, match=r"\(the text ends at byte 10\).*character here\)\. If the"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(("line", "what"), [("[1]", r"\[1\]"), ("3", "3"), ('"x"', "x")])
def test_a_line_is_an_object(line: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n' + line)
    with pytest.raises(DataError, match=rf"line 2, byte 9: got '{what}'; expected an object"):
        list(read_json_lines(tmp_path / "a.jsonl"))


@pytest.mark.parametrize("read", [read_json, lambda path: list(read_json_lines(path))])
def test_other_text_names_its_first_wrong_byte(read, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes('{"a": "caf\xe9"}'.encode("latin-1"))
    with pytest.raises(DataError, match=r"line 1, byte 10: not UTF-8 text; save the file as UTF-8"):
        read(tmp_path / "a")


@pytest.mark.parametrize("read", [read_json, lambda path: list(read_json_lines(path))])
def test_a_cut_archive_says_so(read, tmp_path: Path) -> None:
    whole = gzip.compress(json.dumps([str(i) for i in range(5000)]).encode())
    (tmp_path / "a.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        DataError, match=r"a\.gz, line 1, byte \d+ of the unpacked text: .*cut short"
    ):
        read(tmp_path / "a.gz")
    (tmp_path / "a.gz").write_bytes(b"{no archive}")  # unpacked by a browser that kept the name
    with pytest.raises(DataError, match=r"a\.gz, line 1, byte 1 .*not JSON"):
        read(tmp_path / "a.gz")


@pytest.mark.parametrize("read", [read_json, lambda path: list(read_json_lines(path))])
def test_missing_files_and_folders_are_named(read, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nosuch: there is no such file"):
        read(tmp_path / "nosuch")
    with pytest.raises(DataError, match="this is a folder; expected a file"):
        read(tmp_path)


def test_json_may_be_nested_too_deeply(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("[" * 100_000)
    with pytest.raises(DataError, match="nested too deeply"):
        read_json(tmp_path / "a")


def test_a_check_reads_on_after_a_bad_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"b\n[]\n{"c": 3}\n{"d')
    problems = Problems(limit=2)
    with collecting(problems):
        rows = list(read_json_lines(tmp_path / "a.jsonl"))
    assert rows == [(1, {"a": 1}), (4, {"c": 3})]
    assert problems.counts == {"unreadable line": 3}
    assert [re.findall(r"line (\d)", m) for m in problems.kept["unreadable line"]] == [["2"], ["3"]]
    with pytest.raises(DataError, match="line 2"):  # outside `collecting`, still an error
        list(read_json_lines(tmp_path / "a.jsonl"))
