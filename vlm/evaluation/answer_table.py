"""Answers of any model beside the rows of any table: streamed, and continued after an end."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import pyarrow.parquet as pq

from vlm.asking import Asking
from vlm.core.files import whole_file
from vlm.datasets.errors import DataError
from vlm.datasets.readers.image_files import EmbeddedImages
from vlm.datasets.readers.records import Record, file_format, read_records
from vlm.datasets.readers.rows import COLUMNS, CustomRows

ADDED = ("prediction", "probability", "warnings", "error")
"""Columns beside the table's own. Of a question beyond the model, the first two are empty."""
PARTS = ".part"
Said = dict[str, Any]


class AnswerTable:
    """Answers to the questions of a table, one row after the other.

    Every batch is on the disk before the next one begins, in a file beside `output` that is named
    by table and model; whoever starts again continues after its last row. Once all rows have an
    answer, `output` is written whole.

    Args:
        vqa: the model, or an export of one.
        path: table as `vlm.datasets.CustomDataset` reads it, without answers if need be.
        output: file to write, .csv or .jsonl; None for one beside the table.
        images: folder that the paths of images start from; None for that of the table.
        batch: rows of a batch.

    Raises:
        DataError: a table that cannot be read, is empty, or has one of the columns to be added.
        ValueError: an output of another kind.

    Example:
        >>> table = AnswerTable(vlm.load("my_model"), "my.jsonl", images="photos")
        >>> said = list(table.answers())
        >>> table.write()
    """

    def __init__(
        self,
        vqa: Asking,
        path: str | Path,
        output: str | Path | None = None,
        images: str | Path | None = None,
        batch: int = 64,
    ) -> None:
        self.vqa, self.path, self.batch = vqa, Path(path), batch
        self.images = self.path.parent if images is None else Path(images)
        self._text = file_format(str(path)) in ("csv", "tsv")
        ending = "csv" if self._text else "jsonl"
        name = f"{self.path.name.partition('.')[0]}_answers.{ending}"
        self.output = self.path.with_name(name) if output is None else Path(output)
        if self.output.suffix not in (".csv", ".jsonl"):
            raise ValueError(f"output: got {self.output}; expected a .csv or .jsonl file.")
        self.rows = sum(1 for _ in self._checked())
        if not self.rows:
            raise DataError(f"{self.path}: the table has no rows; expected a question in each.")
        self.part = self.output.with_name(f"{self.output.name}.{self._digest()[:8]}{PARTS}")

    def _records(self) -> Iterator[Record]:
        names = set(COLUMNS)
        if file_format(str(self.path)) == "parquet" and self.path.is_file():
            names |= set(pq.read_schema(self.path).names)
        return read_records(str(self.path), names)

    def _checked(self) -> Iterator[Record]:
        for record in self._records():
            if taken := [name for name in ADDED if name in record.columns]:
                raise DataError(
                    f"{record.place}: got the column {taken[0]!r}, which holds the answer's in the "
                    f"output. Rename it."
                )
            yield record

    def _digest(self) -> str:
        """Of the model and of the table's state."""
        found = self.path.stat()
        state = (str(self.path.resolve()), found.st_size, found.st_mtime_ns, str(self.images))
        return hashlib.sha256(json.dumps([state, self.vqa.digest]).encode()).hexdigest()

    def done(self) -> int:
        """The number of rows that an earlier call has answered; what it left in the middle of a
        line is removed."""
        if not self.part.is_file():
            return 0
        with self.part.open("r+b") as file:
            whole = lines = 0
            for line in file:
                if line.endswith(b"\n"):
                    whole, lines = whole + len(line), lines + 1
            file.truncate(whole)
        return lines

    def answers(self) -> Iterator[list[Said]]:
        """Answer the rows that have no answer yet; what was added, a batch at a time.

        Raises:
            DataError: a column is missing, or the disk is full.
        """
        source = EmbeddedImages()
        names = {name: name for name in COLUMNS}
        read = CustomRows(
            str(self.path), names, (), self.images, source, self._text, with_answers=False
        )
        rows = read(islice(self._records(), self.done(), None))
        with self.part.open("a", encoding="utf-8") as file:
            while batch := list(islice(rows, self.batch)):
                said = self._batch(batch, source)
                file.writelines(f"{json.dumps(one)}\n" for one in said)
                file.flush()
                yield said

    def _batch(self, rows: list[dict[str, Any]], source: EmbeddedImages) -> list[Said]:
        good = [row for row in rows if not row["mistakes"]]
        try:
            found = iter(self._together(good, source))
        except (ValueError, TypeError, OSError) as error:
            if len(rows) > 1:  # each by itself, so that a mistake is its row's alone
                return [said for row in rows for said in self._batch([row], source)]
            return [_said(error=str(error))]
        return [
            _said(error=" ".join(text for _, _, text in row["mistakes"]))
            if row["mistakes"]
            else next(found)
            for row in rows
        ]

    def _together(self, rows: list[dict[str, Any]], source: EmbeddedImages) -> list[Said]:
        different = dict.fromkeys(row["image"] for row in rows)
        images = self.vqa.see([source(image) for image in different])
        seen = dict(zip(different, images, strict=True))
        chooses = self.vqa.kind == "choices"
        answers = self.vqa.answer(
            [seen[row["image"]] for row in rows],
            [row["question"] for row in rows],
            top_k=1,
            choices=[row["choices"] or [] for row in rows] if chooses else None,
        )
        return [
            _said(warnings=" ".join(answer.warnings))
            if answer.is_guess
            else _said(answer.text, answer.probability, " ".join(answer.warnings))
            for answer in answers
        ]

    def write(self) -> int:
        """Write `output` once all rows are answered, and remove what was kept until then.

        Returns:
            The number of rows with an error.
        """
        with self.part.open(encoding="utf-8") as said, whole_file(self.output) as binary:
            file = io.TextIOWrapper(binary, encoding="utf-8", newline="")
            pairs = zip(self._records(), map(json.loads, said), strict=True)
            write = _write_csv if self.output.suffix == ".csv" else _write_lines
            errors = sum(bool(added["error"]) for added in write(file, pairs))
            file.detach()
        self.part.unlink()
        return errors


def _said(
    prediction: str | None = None,
    probability: float | None = None,
    warnings: str = "",
    error: str = "",
) -> Said:
    return dict(zip(ADDED, (prediction, probability, warnings, error), strict=True))


def _write_csv(file: TextIO, pairs: Iterable[tuple[Record, Said]]) -> Iterator[Said]:
    writer: csv.DictWriter[str] | None = None
    for record, added in pairs:
        if writer is None:
            names = [*record.columns, *ADDED]
            writer = csv.DictWriter(file, names, lineterminator="\n", extrasaction="raise")
            writer.writeheader()
        writer.writerow({**_plain(record.values), **added})
        yield added


def _write_lines(file: TextIO, pairs: Iterable[tuple[Record, Said]]) -> Iterator[Said]:
    for record, added in pairs:
        file.write(json.dumps({**_plain(record.values), **added}, ensure_ascii=False) + "\n")
        yield added


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values without images, of which the size is said."""
    return {
        name: json.loads(json.dumps(value, default=lambda v: f"{len(v):,} bytes"))
        for name, value in values.items()
    }
