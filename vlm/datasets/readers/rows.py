"""From a row as somebody wrote it to a row of the question table."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from vlm.core.clean_text import clean_text
from vlm.datasets.errors import DataError, is_collecting, report
from vlm.datasets.readers.annotations import NOTHING, annotators_answers, cell_content, plain_text
from vlm.datasets.readers.columns import MissingColumnError, hint, missing_columns
from vlm.datasets.readers.file_names import FileNames
from vlm.datasets.readers.image_files import EmbeddedImages
from vlm.datasets.readers.literals import content_of
from vlm.datasets.readers.records import Record
from vlm.datasets.sources import note

_OPTIONAL = ("choices", "id", "type", "answer_type", "group", "pair", "relation")
COLUMNS = ("image", "question", "answers", "answer", *_OPTIONAL)
"""Our names of a file's columns; `type` is the table's question_type."""

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")
_DATA_URL = re.compile(r"data:[\w/+.;=-]*;base64,")
# The first bytes of PNG, JPEG, GIF and WebP in base64; long, so as to be no path.
_BASE64 = re.compile(r"(?:iVBORw0KGgo|/9j/|R0lGOD|UklGR)[A-Za-z0-9+/\s]{40,}={0,2}\s*")


class CustomRows:
    """Reads the rows of one file.

    Args:
        source: the file, for the keys of embedded images.
        columns: our names of columns -> the file's.
        mapped: those of them that the user named, which must be there.
        folder: folder that image paths start from.
        images: keeps those that come as bytes.
        text: whether each cell is text, so that lists are written inside (CSV).
        with_answers: whether every question must have one.

    Attributes:
        answers_columns: which of ours the answers came from so far: `answers`, `answer` or both.
        there: all columns of the rows so far, in their order.
    """

    def __init__(
        self,
        source: str,
        columns: Mapping[str, str],
        mapped: Iterable[str],
        folder: Path,
        images: EmbeddedImages,
        text: bool,
        with_answers: bool,
    ) -> None:
        self.source, self.columns, self.mapped = source, columns, set(mapped)
        self.folder, self.images = folder, images
        self.text, self.with_answers = text, with_answers
        self.answers_columns: set[str] = set()
        self._files = FileNames()
        self.there: dict[str, None] = {}

    def __call__(self, records: Iterable[Record]) -> Iterator[dict[str, Any]]:
        """Rows with the columns of `vlm.datasets.table.SCHEMA`; what is wrong is reported.

        Raises:
            MissingColumnError: no row has one that is needed.
        """
        # A test without answers may well lack their column.
        needed = self.mapped - (set() if self.with_answers else {"answers", "answer"})
        unseen = {self.columns[name] for name in needed}
        place = said = ""
        last: Collection[str] = ()
        lacking: list[str] = []  # of all rows so far, of which none can be used then
        for record in records:
            if record.columns != last:
                self.there.update(dict.fromkeys(record.columns))
                last = record.columns
            answers = self._answers_column(record)
            self.answers_columns.add(answers)
            if unseen:
                unseen.difference_update(record.columns)
            missing = self._missing(record, answers) if lacking or not place else []
            if not place and missing:
                lacking = missing
                message = missing_columns(missing, record.columns, self.columns, self.mapped)
                if self.text and len(missing) == 3:
                    message += " The first line must name the columns."
                said = f"{record.place}: {message}"
                if not is_collecting():
                    raise MissingColumnError(said)
            elif lacking and missing != lacking:  # so the others need not be as the first
                report(MissingColumnError.kind, said)
                before = {self.columns[name] for name in lacking}
                report(MissingColumnError.kind, _up_to(place, before))
                lacking = []
            place = record.place
            if not lacking:
                yield self._row(record, answers)
        if unseen := unseen - {self.columns[name] for name in lacking}:
            report(MissingColumnError.kind, _up_to(place or self.source, unseen))
        if lacking:
            raise MissingColumnError(said)

    def _missing(self, record: Record, answers: str) -> list[str]:
        """Our names of the columns that are needed, and not there."""
        needed = ["image", "question", *([answers] if self.with_answers else [])]
        return [name for name in needed if self.columns[name] not in record.columns]

    def _row(self, record: Record, answers: str) -> dict[str, Any]:
        convert: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
            ("id", "id", _label),
            ("image", "image", self._images),
            ("question", "question", _question),
            ("answers", answers, self._answers),
            ("answer_type", "answer_type", _label),
            ("question_type", "type", _label),
            ("choices", "choices", self._choices),
            ("group", "group", _label),
            ("pair", "pair", _label),
            ("relation", "relation", _label),
        )
        row: dict[str, Any] = {"place": record.place}
        mistakes = []
        for name, column, converted in convert:
            value = record.values.get(self.columns[column])
            try:
                row[name] = None if value is None else converted(value)
            except DataError:  # no space for images: not this row's mistake
                raise
            except ValueError as error:
                mistakes.append((column, f"wrong {column}", f"{error}."))
        if self.columns["id"] not in record.columns:
            row["id"] = str(record.number)
        if self.with_answers and row.get("answers", ()) is None:
            given = record.values.get(self.columns[answers])
            got = f" (got {given!r:.80})" if given else ""
            message = f"there is no answer{got}; training and validation need one."
            mistakes.append((answers, "no answer", message + self._hint(answers, record)))
        # Where each row has its own columns, a misspelt one is another.
        for name, kind in (("image", "no image"), ("question", "empty question")):
            if self.columns[name] not in record.columns:
                message = f"there is no {name}.{self._hint(name, record)}"
                mistakes.append((name, kind, message))
        return row | {"mistakes": mistakes}

    def _hint(self, name: str, record: Record) -> str:
        column = self.columns[name]
        if column in record.columns:
            return ""
        return hint(column, record.columns, self.columns.values())

    def _answers_column(self, record: Record) -> str:
        """`answers` where a row has both, unless the user named the other."""
        columns = ["answers", "answer"]
        named = [name for name in columns if name in self.mapped]
        there = named or [name for name in columns if self.columns[name] in record.columns]
        given = [n for n in there if record.values.get(self.columns[n]) not in (None, "")]
        return (given + there + ["answer"])[0]

    def _answers(self, value: Any) -> list[str] | None:
        return annotators_answers(self._content(value))

    def _choices(self, value: Any) -> list[str] | None:
        content = self._content(value)
        if not isinstance(content, list):
            if plain_text(content) is None:
                return None
            raise ValueError(f"got {value!r:.80}; expected a list of choices")
        choices = [text for item in content if (text := plain_text(item)) is not None]
        if len(choices) < len(content):
            raise ValueError(f"got {value!r:.80}, in which a choice is empty")
        return choices or None

    def _content(self, value: Any) -> Any:
        """The value, or the list or object that it spells out as text."""
        if not isinstance(value, str):
            return value
        return cell_content(value) if self.text else content_of(value)

    def _images(self, value: Any) -> str | list[str] | None:
        """An image, or several in a list."""
        if isinstance(value, str) and value.startswith("["):
            value = content_of(value)
        if not isinstance(value, list):
            return self._image(value)
        if not value:
            raise ValueError("got an empty list; expected an image, or several")
        images = []
        for number, one in enumerate(value, start=1):
            try:
                image = self._image(one)
            except DataError:
                raise
            except ValueError as error:
                raise ValueError(f"image {number} of {len(value)}: {error}") from None
            if image is None:
                raise ValueError(f"image {number} of {len(value)} is missing; add or remove it")
            images.append(image)
        return images

    def _image(self, value: Any) -> str | None:
        """A path from here, or the key of a kept image."""
        if isinstance(value, str) and value.startswith("{"):
            value = content_of(value)
        if isinstance(value, Mapping):  # of Hugging Face
            content = value.get("bytes")
            value = value.get("path") if content is None else content
            if isinstance(content, str):
                value = _from_base64(content)
        elif isinstance(value, str) and (_BASE64.fullmatch(value) or _DATA_URL.match(value)):
            value = _from_base64(value)
        if isinstance(value, bytes):
            return self.images.add(value, self.source)
        if value is None:
            return None
        if not isinstance(value, str):
            raise ValueError(
                f"got {value!r:.80}; expected the path of an image, its bytes, or a list"
            )
        clean_text(value)  # which a path must pass, and need not resemble
        if not (value := value.strip()):
            return None
        if value.startswith("file://"):
            value = url2pathname(urlsplit(value).path)
        if _URL.match(value):
            raise ValueError(
                f"got the address {value[:80]!r}; images are not fetched while training: "
                f"download them once, and write their paths"
            )
        # "a.jpg" and "./a.jpg" are one image.
        path = os.path.normpath(os.path.join(self.folder, value))
        found = os.path.normpath(self._files.find(path))  # so that one file has one name
        if found != path or not os.path.exists(found):
            note(_folder_of(found))  # where another file may appear
        return found


def _folder_of(path: str) -> str:
    """The nearest folder above that exists."""
    folder = os.path.dirname(path)
    while folder and not os.path.isdir(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    return folder or "."


def _label(value: Any) -> str | None:
    if not isinstance(value, str):
        return plain_text(value)
    text = clean_text(value).strip()
    return None if text in (*NOTHING, "None") else text


def _question(value: Any) -> Any:
    if isinstance(value, str) and value and value.strip() in NOTHING[1:]:
        raise ValueError(f"got {value!r}, which stands for a missing value; correct or remove it")
    return value


def _up_to(place: str, columns: set[str]) -> str:
    return f"{place}: up to here no row has a column {', '.join(map(repr, sorted(columns)))}."


def _from_base64(text: str) -> bytes:
    try:
        text = _DATA_URL.sub("", text, count=1)
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        raise ValueError(f"got {text[:40]!r}...; expected an image in base64") from None
