"""Answers of any model beside the rows of any table: streamed, and continued after an end."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, NoReturn, TextIO

from vlm.asking import MISSING, Answer, Asking
from vlm.core.files import locked, sync, whole_file
from vlm.datasets.errors import DataError
from vlm.datasets.readers.conversations import COLUMN, from_conversations
from vlm.datasets.readers.image_files import EmbeddedImages
from vlm.datasets.readers.records import Record, file_format, read_records
from vlm.datasets.readers.rows import COLUMNS, CustomRows

ADDED = ("prediction", "probability", "warnings", "error")
"""Columns beside the table's own. Of a question beyond the model, the first two are empty."""
PARTS = ".part"
Row = Mapping[str, Any]
"""With a `question` and, for models that choose, `choices`."""
Said = dict[str, Any]
"""What is added to a row."""


class AnswerTable:
    """Answers to the questions of a table, one row after the other.

    Every batch is on the disk before the next one begins, in a file beside `output` that is named
    by table and model; whoever starts again continues after its last row. Once all rows have an
    answer, `output` is written whole, with a column `id` (the row's number) if the table has no
    ids. `alone` keeps other processes from doing the same.

    Args:
        vqa: the model, or an export of one.
        path: table as `vlm.datasets.CustomDataset` reads it, without answers if need be; "-" stands
            for no image, or for no question.
        output: file to write, .csv or .jsonl; None for one beside the table.
        images: folder that the paths of images start from; None for that of the table.
        batch: rows of a batch.

    Raises:
        DataError: a table that cannot be read, is empty, or has one of the columns to be added.
        ValueError: an output of another kind, or the table itself.

    Example:
        >>> table = AnswerTable(vlm.load("my_model"), "my.jsonl", images="photos")
        >>> with table.alone():
        ...     said = list(table.answers())
        ...     errors = table.write()
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
        name = f"{Path(self.path.name.removesuffix('.gz')).stem}_answers.{ending}"
        self.output = self.path.with_name(name) if output is None else Path(output)
        if self.output.suffix not in (".csv", ".jsonl"):
            raise ValueError(f"output: got {self.output}; expected a .csv or .jsonl file.")
        if self.output.resolve() == self.path.resolve():
            raise ValueError(f"output: got the table itself, {self.path}; expected another file.")
        if self.output.exists():
            raise DataError(
                f"{self.output}: already there; remove it, or name another file with --output."
            )
        self.columns: dict[str, None] = {}  # of all rows, each of which may have its own
        self.rows = sum(1 for _ in self._checked())
        if not self.rows:
            raise DataError(f"{self.path}: the table has no rows; expected a question in each.")
        self.part = self.output.with_name(f"{self.output.name}.{self._digest()[:8]}{PARTS}")

    def _records(self) -> Iterator[Record]:
        names = {*COLUMNS, COLUMN}
        if file_format(str(self.path)) == "parquet" and self.path.is_file():
            import pyarrow.parquet as pq

            names |= set(pq.read_schema(self.path).names)
        return from_conversations(read_records(str(self.path), names))

    def _checked(self) -> Iterator[Record]:
        for record in self._records():
            if taken := [name for name in ADDED if name in record.columns]:
                raise DataError(
                    f"{record.place}: got the column {taken[0]!r}, which holds the answer's in the "
                    f"output. Rename it."
                )
            check_columns(record)
            self.columns.update(dict.fromkeys(record.columns))
            yield record

    def _digest(self) -> str:
        """Of the model with its calibration, and of the table's state."""
        found = self.path.stat()
        state = (str(self.path.resolve()), found.st_size, found.st_mtime_ns, str(self.images))
        return hashlib.sha256(json.dumps([state, self.vqa.digest]).encode()).hexdigest()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, no other process answers into this output.

        Raises:
            DataError: one does.
        """

        def refuse() -> NoReturn:
            raise DataError(
                f"{self.output}: another process is answering into this file; wait for it to end, "
                f"or name another --output."
            )

        path = self.output.with_name(f"{self.output.name}.lock")
        with locked(path, refuse, seconds=0):
            try:
                yield
            finally:
                path.unlink(missing_ok=True)

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
        done, records = self.done(), self._records()
        # The first row is read again: from its columns `CustomRows` knows that this is a table of
        # questions, where later rows may lack one.
        ours = chain(islice(records, 1), islice(records, max(0, done - 1), None))
        rows = islice(read(ours), min(1, done), None)
        while batch := list(islice(rows, self.batch)):
            said = self._batch(batch, source)
            with self.part.open("ab") as file:  # only now: what fails at once leaves no file
                file.writelines(f"{json.dumps(one)}\n".encode() for one in said)
                sync(file)
            yield said

    def _batch(self, rows: list[dict[str, Any]], source: EmbeddedImages) -> list[Said]:
        good = [row for row in rows if not row["mistakes"]]
        try:
            found = iter(self._together(good, source))
        except (ValueError, TypeError, OSError) as error:
            if len(rows) > 1:  # each by itself, so that a mistake is its row's alone
                return [one for row in rows for one in self._batch([row], source)]
            return [addition(error=str(error))]
        return [
            addition(error=" ".join(text for _, _, text in row["mistakes"]))
            if row["mistakes"]
            else next(found)
            for row in rows
        ]

    def _together(self, rows: list[dict[str, Any]], source: EmbeddedImages) -> list[Said]:
        given = [row["image"] for row in rows]
        keys = [tuple(one) if isinstance(one, list) else (one,) for one in given]
        different = dict.fromkeys(key for key in keys if Path(key[0]).name != MISSING)
        contents: list[list[Any]] = [[source(image) for image in key] for key in different]
        images = self.vqa.see(contents)
        seen = dict(zip(different, images, strict=True))
        return answer_rows(self.vqa, [seen.get(key) for key in keys], rows)

    def write(self) -> int:
        """Write `output` once all rows are answered, and remove what was kept until then.

        Returns:
            The number of rows with an error.
        """
        from vlm.evaluation.predictions import IDS  # needs pyarrow, which the demo does without

        with self.part.open(encoding="utf-8") as said, whole_file(self.output) as binary:
            file = io.TextIOWrapper(binary, encoding="utf-8", newline="")
            records, columns = self._records(), [*self.columns, *ADDED]
            if self.columns.keys().isdisjoint(IDS):  # by which `vlm evaluate` finds the question
                records, columns = map(_with_id, records), ["id", *columns]
            pairs = zip(records, map(json.loads, said), strict=True)
            if self.output.suffix == ".csv":
                said_again = write_csv(file, columns, pairs)
            else:
                said_again = _write_lines(file, pairs)
            errors = sum(bool(added["error"]) for added in said_again)
            file.detach()
        self.part.unlink()
        return errors


def answer_rows(vqa: Asking, seen: Sequence[Any], rows: Sequence[Row]) -> list[Said]:
    """What a model says to rows, each about the image from `see` of the same place, or None."""
    found: dict[int, Answer] = {}
    for lacking in (False, True):  # images and no images do not mix
        numbers = [number for number, image in enumerate(seen) if (image is None) == lacking]
        chosen = [rows[number] for number in numbers]
        chooses = vqa.kind == "choices" or vqa.ranks_choices
        answers = vqa.answer(
            [seen[number] for number in numbers],
            [None if row["question"] == MISSING else row["question"] for row in chosen],
            top_k=1,
            choices=[row["choices"] or [] for row in chosen] if chooses else None,
        )
        found.update(zip(numbers, answers, strict=True))
    return [
        addition(warnings=" ".join(answer.warnings))
        if answer.is_guess
        else addition(answer.text, answer.probability, " ".join(answer.warnings))
        for _, answer in sorted(found.items())
    ]


def addition(
    prediction: str | None = None,
    probability: float | None = None,
    warnings: str = "",
    error: str = "",
) -> Said:
    """What is added to a row, by column."""
    return dict(zip(ADDED, (prediction, probability, warnings, error), strict=True))


def _with_id(record: Record) -> Record:
    """The record with the id that `CustomDataset` gives it."""
    return record._replace(values={"id": str(record.number), **record.values})


def check_columns(record: Record) -> None:
    """Refuse a table of which a column would be lost in the output.

    Raises:
        DataError: two columns have the same name.
    """
    if twice := [name for name in record.columns if list(record.columns).count(name) > 1]:
        raise DataError(
            f"{record.place}: the column {twice[0]!r} appears twice; expected each name once."
        )


def write_csv(
    file: TextIO, columns: Sequence[str], pairs: Iterable[tuple[Record, Said]]
) -> Iterator[Said]:
    """Write records with what was added to them; this is yielded again."""
    # A column without a name, such as the numbers of rows that pandas writes, is left out.
    writer = csv.DictWriter(file, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for record, added in pairs:
        values = {
            name: _json(value) if isinstance(value, (bool, list, dict)) else value
            for name, value in _plain(record.values).items()
        }
        writer.writerow({**values, **added})
        yield added


def _write_lines(file: TextIO, pairs: Iterable[tuple[Record, Said]]) -> Iterator[Said]:
    for record, added in pairs:
        file.write(_json({**_plain(record.values), **added}) + "\n")
        yield added


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as JSON has them: times and decimals as text, and the size of an image."""

    def said(value: Any) -> str:
        return f"{len(value):,} bytes" if isinstance(value, bytes) else str(value)

    return {name: json.loads(json.dumps(value, default=said)) for name, value in values.items()}
