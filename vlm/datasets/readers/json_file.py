"""JSON, JSON Lines and lines of text, plain or gzipped, with line and byte in every error."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import zlib
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

from vlm.datasets.errors import DataError, report
from vlm.datasets.sources import note

UNPACK = "Unpack it, or pack it with gzip."
EXPORT = "Save the sheet as 'CSV UTF-8'."
NO_TEXT = {
    b"PK\3\4": ("a zip archive or a workbook (.xlsx, .ods)", f"{EXPORT[:-1]}, or unpack it."),
    b"\xd0\xcf\x11\xe0": ("an old Excel workbook (.xls)", EXPORT),
    b"BZh": ("packed with bzip2", UNPACK),
    b"\xfd7zXZ": ("packed with xz", UNPACK),
    b"\x28\xb5\x2f\xfd": ("packed with zstd", UNPACK),
    b"PAR1": ("a Parquet file", "End its name in .parquet."),
    b"ARROW1": ("an Arrow or Feather file", "Write it as Parquet."),
    b"\x80": ("a pickle", "It could run any code, so write Parquet or JSON Lines."),
    b"SQLite f": ("an SQLite database", "Export its table as CSV."),
    b"\x89HDF": ("an HDF5 file", "Write it as Parquet or JSON Lines."),
    **dict.fromkeys(
        (b"<!DOCTYPE", b"<!doctype", b"<html"), ("a web page", "Download the file itself.")
    ),
    b"version https://git-lfs": ("a pointer of Git LFS", "Fetch the file with `git lfs pull`."),
    b"%PDF": ("a PDF file", "Write it as CSV."),
}
"""The first bytes of files that are not text of ours -> what they are, and the remedy."""


class MemoryFile(NamedTuple):
    """The content of a file that is not on the disk, and the name it has in messages. It is never
    unpacked."""

    name: str
    content: bytes

    def __str__(self) -> str:
        return self.name


def read_json(path: str | Path, shrink: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """The content of a JSON file; `.gz` is unpacked.

    `shrink` says what to keep of each object in the file, inner ones first, while it is read: a
    large file of small objects takes many times its size in memory otherwise.

    Raises:
        FileNotFoundError: a file that does not exist.
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
        FileNotFoundError: a file that does not exist.
        DataError: naming file, line and byte (of the unpacked text).
    """
    for number, start, line in read_lines(path):
        if not line.strip():
            continue
        decoded(line, path, number, start)  # or every line would repeat the error
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
                f"{path}, line {number}, byte {start}: got {str(row)[:60]!r}; expected an object "
                f'such as {{"image": "a.jpg", ...}} on each line.',
            )


def read_lines(path: str | Path | MemoryFile) -> Iterator[tuple[int, int, bytes]]:
    """Each line's number, counted from 1, the byte it starts at, and its content.

    Raises:
        FileNotFoundError: a file that does not exist.
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


def decoded(line: bytes, path: str | Path | MemoryFile, number: int, start: int) -> str:
    """The text of line `number`, which starts at byte `start`, or a DataError that names both."""
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        number += line.count(b"\n", 0, error.start)
        raise DataError(
            f"{path}, line {number}, byte {start + error.start}: not UTF-8 text; save the file as "
            f"UTF-8 (in Excel as 'CSV UTF-8')."
        ) from None


def check_is_text(path: str | Path) -> None:
    """Refuse a file that is not there, or of a known kind that is not text."""
    _open(path).close()


def _opener(path: str | Path | MemoryFile) -> Callable[[], Any]:
    """Opens the unpacked text, each time from its beginning."""
    if isinstance(path, MemoryFile):
        content = path.content
        return lambda: io.BufferedReader(io.BytesIO(content))
    path = Path(path)
    note(path)
    if path.is_dir():
        raise DataError(f"{path}: this is a folder; expected a file.")
    if not path.is_file():
        link = f" It is a link to {os.readlink(path)}." if path.is_symlink() else ""
        raise FileNotFoundError(f"{path}: there is no such file.{link}")
    with path.open("rb") as plain:
        packed = plain.read(2) == b"\x1f\x8b"  # whatever its name: browsers unpack
    return partial(gzip.open if packed else open, path, "rb")


def _open(path: str | Path | MemoryFile) -> IO[bytes]:
    """The unpacked text, in UTF-8."""
    opened = _opener(path)
    file: Any = opened()
    try:
        head = file.peek(64)[:64]
        marked = head.startswith((BOM_UTF16_LE, BOM_UTF16_BE))
        if marked and head[2:4] != b"\0\0":  # Excel's "Unicode text", PowerShell
            with file:
                return io.BytesIO(file.read().decode("utf-16").encode())
    except (EOFError, OSError, zlib.error, UnicodeDecodeError):
        return opened()  # its reader reports where it ends
    what = next((found for begin, found in NO_TEXT.items() if head.startswith(begin)), None)
    if what is None and b"\0" in head:
        what = "not text, or not UTF-8", "Save it as UTF-8."
    if what is not None:
        file.close()
        raise DataError(f"{path}: this is {what[0]}. {what[1]}")
    return file


def _parse(
    content: bytes,
    path: str | Path,
    line: int,
    start: int,
    shrink: Callable[[dict[str, Any]], Any] | None = None,
    one_line: bool = False,
) -> Any:
    """Parse JSON that starts at a line and byte of its file; it may be one line of many."""
    text = decoded(content, path, line, start)
    if one_line:  # an object that is not closed is one of this line, and not of the next
        text = text.rstrip("\r\n")
    try:
        return json.loads(text, object_hook=shrink)
    except json.JSONDecodeError as error:
        byte = len(text[: error.pos].encode())
        byte += start + len(BOM_UTF8) * content.startswith(BOM_UTF8)
        place, remedy = f"the text ends at byte {start + len(content)}", ""
        if one_line:
            place = f"column {error.colno}"
        to_the_end = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated")
        if error.msg == "Extra data":
            remedy = " Expected one list of objects, or one object on each line."
        elif to_the_end and one_line:
            remedy = " A quote or a bracket may be unclosed."
        if to_the_end and not (one_line and content.endswith(b"\n")):  # others follow
            remedy += " If the file was cut short, get it again."
        # json's own words end in "at" or a colon, before a place within what it was given.
        found = re.sub(r" at$", " here", error.msg).rstrip(": ")
        raise DataError(
            f"{path}, line {line + error.lineno - 1}, byte {byte} ({place}): not JSON ({found})."
            f"{remedy}"
        ) from None
    except RecursionError:
        raise DataError(f"{path}, line {line}, byte {start}: nested too deeply.") from None


def _cut_short(path: str | Path | MemoryFile, line: int, byte: int, error: Exception) -> str:
    return (
        f"{path}, line {line}, byte {byte} of the unpacked text: the file cannot be read on "
        f"({error}). If it was cut short, get it again."
    )
