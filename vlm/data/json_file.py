"""JSON and JSON Lines, plain or gzipped, with line and byte in every error."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from vlm.data.problems import DataError, report
from vlm.data.sources import note


def read_json(path: str | Path, shrink: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """The content of a JSON file; `.gz` is unpacked.

    Args:
        path: of the file.
        shrink: what to keep of each object in the file, inner ones first, while it is read: a
            large file of small objects takes many times its size in memory otherwise.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: naming file, line and byte (of the unpacked text).
    """
    chunks: list[bytes] = []
    with _open(path) as file:
        try:
            while chunk := file.read(1 << 24):
                chunks.append(chunk)
        except (EOFError, OSError, zlib.error) as error:
            content = b"".join(chunks)
            where = content.count(b"\n") + 1, len(content)
            raise DataError(_cut_short(path, *where, error)) from None
    return _parse(b"".join(chunks), path, 1, 0, shrink)


def read_json_lines(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each line's number, counted from 1, and its object; lines of white space are passed over.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: naming file, line and byte (of the unpacked text).
    """
    for number, start, line in read_lines(path):
        if not line.strip():
            continue
        try:
            row = _parse(line, path, number, start, one_line=True)
        except DataError as error:
            report("unreadable line", str(error))
            continue
        if isinstance(row, dict):
            yield number, row
        else:
            report(
                "unreadable line",
                f"{path}, line {number}, byte {start}: got {str(row)[:60]!r}; wanted an object "
                f'such as {{"image": "a.jpg", ...}} on each line.',
            )


def read_lines(path: str | Path) -> Iterator[tuple[int, int, bytes]]:
    """Each line's number, counted from 1, the byte it starts at, and its content.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: the file cannot be read to its end.
    """
    number, start = 0, 0
    with _open(path) as file:
        try:
            for number, line in enumerate(file, start=1):
                yield number, start, line
                start += len(line)
        except (EOFError, OSError, zlib.error) as error:
            report("unreadable file", _cut_short(path, number + 1, start, error))


def _open(path: str | Path) -> IO[bytes]:
    path = Path(path)
    note(path)
    if path.is_dir():
        raise DataError(f"{path}: this is a folder; wanted a file.")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    # To the type checker the two have nothing in common but `read` and lines.
    # Both read bytes; typeshed gives them no common class.
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _parse(
    content: bytes,
    path: str | Path,
    line: int,
    start: int,
    shrink: Callable[[dict[str, Any]], Any] | None = None,
    one_line: bool = False,
) -> Any:
    """Parse JSON that starts at a line and byte of its file; it may be one line of many."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line += content.count(b"\n", 0, error.start)
        raise DataError(
            f"{path}, line {line}, byte {start + error.start}: not UTF-8 text; save the file as "
            f"UTF-8."
        ) from None
    if one_line:  # an object that is not closed is one of this line, and not of the next
        text = text.rstrip("\r\n")
    try:
        return json.loads(text, object_hook=shrink)
    except json.JSONDecodeError as error:
        byte = len(text[: error.pos].encode())
        byte += start + len(BOM_UTF8) * content.startswith(BOM_UTF8)
        place, remedy = f"the text ends at byte {start + len(content)}", ""
        if one_line:
            place, remedy = f"column {error.colno}", " A quote or a bracket may not be closed."
        if not (one_line and content.endswith(b"\n")):  # others follow
            remedy += " If the file was cut short, get it again."
        # json's own words end in "at" or a colon, before a place within what it was given.
        found = re.sub(r" at$", " here", error.msg).rstrip(": ")
        raise DataError(
            f"{path}, line {line + error.lineno - 1}, byte {byte} ({place}): not JSON ({found})."
            f"{remedy}"
        ) from None
    except RecursionError:
        raise DataError(f"{path}, line {line}, byte {start}: nested too deeply.") from None


def _cut_short(path: str | Path, line: int, byte: int, error: Exception) -> str:
    return (
        f"{path}, line {line}, byte {byte} of the unpacked text: the file cannot be read on "
        f"({error}). If it was cut short, get it again."
    )
