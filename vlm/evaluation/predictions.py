"""Anybody's answers to the questions of a data set, read from a file."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from vlm.core.clean_text import clean_text
from vlm.core.validation import counted
from vlm.datasets.errors import DataError
from vlm.datasets.readers.json_file import read_lines
from vlm.datasets.readers.records import Record, read_records
from vlm.evaluation.results import Prediction

IDS = ("id", "question_id", "questionId")
"""Names of a question's id: ours, VQA's and GQA's. The first that a file has is read."""
ANSWERS = ("prediction", "answer")
"""Names of its answer. A file that has both keeps the annotators' in `answer`."""
RESPONSES = ("filtered_resps", "resps")
"""Names of the list of a model's responses in lmms-eval's samples."""
_READ = frozenset(
    {*IDS, *ANSWERS, *RESPONSES, "doc_id", "doc", "submission", "input", "choices"}
    | {"probability", "calibrated", "watched", "by_head"}
)
EXPECTED = (
    "expected `predictions.jsonl` of `vlm predict`; VQA's result format, a JSON list of "
    '{"question_id": 1, "answer": "yes"}; the samples that lmms-eval logs (`doc_id` and '
    "`filtered_resps`); or a CSV, TSV or Parquet file with the columns id (or question_id) and "
    "answer (or prediction), and perhaps probability"
)


class Predictions(NamedTuple):
    """The answers of a file.

    Attributes:
        by_id: answers by question id, in the order of the file.
        table: the questions that they answer.
        matched: which of the file's columns says what question an answer is for, and which one
            holds the answer, in words.
        choices: whether the answers were picked from each question's choices: the file has these.
    """

    by_id: dict[str, Prediction]
    table: pa.Table
    matched: str
    choices: bool


_Read = Callable[[str, Mapping[str, Any]], tuple[str, str | None]]
"""Place and values of a record -> the question's id, and the answer; None for none."""


def read_predictions(
    path: str | Path, table: pa.Table, split: str = "test", partial: bool = False
) -> Predictions:
    """Read answers, and match them with the questions of a split.

    The content says which format it is: that of `vlm predict`, VQA's results, the samples of
    lmms-eval, or any rows with an id and an answer, as JSON, JSON Lines, CSV, TSV or Parquet, also
    gzipped.

    A sample of lmms-eval belongs to the `question_id` in its `doc` or `submission`. Where it has
    neither, as most do, `doc_id` is the question's position in the table, counted from 0. Then each
    sample's prompt has to contain the question at that position.

    Args:
        path: path of the file.
        table: the questions of the split, with the columns id and question.
        split: its name, for errors.
        partial: whether questions may lack an answer; they are then left out of the table.

    Raises:
        FileNotFoundError: a file that does not exist.
        DataError: another format; an id that is missing, unknown or repeated; an answer that is no
            text; a probability outside [0, 1]; without `partial`, a question without an answer.
    """
    path = Path(path)
    records = read_records(str(path), _READ, _format(path))
    first = next(records, None)
    if first is None:
        raise DataError(f"{path}: the file has no answers; {EXPECTED}.")
    records = chain([first], records)
    sampled = "doc_id" in first.values and any(name in first.values for name in RESPONSES)
    read, matched = (_samples if sampled else _columns)(first, table)
    ids = table["id"].to_pylist()
    by_id = _matched(records, read, ids, split)
    if missing := [key for key in ids if key not in by_id]:
        if not partial:
            raise DataError(
                f"{path}: no answer to {len(missing):,} of the {len(table):,} {split} questions "
                f"(first ids {_listed(missing)}). Add them, or score the {len(by_id):,} that have "
                f"one with `vlm evaluate --partial` (in Python `partial=True`)."
            )
        table = table.filter(pa.array([key in by_id for key in ids]))
    rows = zip(table["id"].to_pylist(), table["choices"].to_pylist(), strict=True)
    picked = "choices" in first.values and all(
        choices is not None and by_id[key].answer in choices for key, choices in rows
    )
    return Predictions(by_id, table, matched, picked)


def _format(path: Path) -> str:
    """Of the content, whatever the file's name: others have their own endings."""
    with path.open("rb") as file:
        if file.read(4) == b"PAR1":
            return "parquet"
    first = next((line.strip() for _, _, line in read_lines(path) if line.strip()), b"")
    return "json" if first.removeprefix(BOM_UTF8)[:1] in (b"{", b"[") else "csv"


def _matched(
    records: Iterable[Record], read: _Read, ids: list[str], split: str
) -> dict[str, Prediction]:
    """The answers by id. All of the file is read before it is refused, to count what is wrong."""
    known = frozenset(ids)
    found: dict[str, Prediction] = {}
    places: dict[str, str] = {}
    unknown: list[tuple[str, str]] = []
    repeated: list[tuple[str, str]] = []
    for _, place, _, values in records:
        key, answer = read(place, values)
        if answer is None:
            continue
        prediction = _prediction(place, answer, values)
        if key not in known:
            unknown.append((place, key))
        elif key in found:
            repeated.append((place, key))
        else:
            found[key], places[key] = prediction, place
    if unknown:
        place, key = unknown[0]
        more = f"; {len(unknown):,} answers have such ids" if len(unknown) > 1 else ""
        raise DataError(
            f"{place}: got the id {key!r}, which no {split} question has{more}. Expected ids such "
            f"as {_listed(ids)}: choose the split with `--split` (in Python `split=`), or correct "
            f"the ids."
        )
    if repeated:
        place, key = repeated[0]
        raise DataError(
            f"{place}: got the id {key!r} again, after {places[key]}; expected one "
            f"answer for each question. Remove the {counted(len(repeated), 'repeated answer')}."
        )
    return found


def _columns(first: Record, table: pa.Table) -> tuple[_Read, str]:
    """Rows with an id and an answer."""
    key = next((name for name in IDS if name in first.columns), None)
    answer = next((name for name in ANSWERS if name in first.columns), None)
    if key is None or answer is None:
        raise DataError(
            f"{first.place}: got the columns {_listed(list(first.columns), 10)}; {EXPECTED}."
        )

    # Of `vlm predict --dataset.path`: a row without an answer has an error or a warning instead.
    may_lack = {"error", "warnings"} <= set(first.columns)

    def read(place: str, values: Mapping[str, Any]) -> tuple[str, str | None]:
        given = values.get(answer)
        text = None if may_lack and given in (None, "") else _text(place, answer, given)
        return _id(place, key, values.get(key)), text

    return read, f"answers from the column {answer!r}, questions by {key!r}"


def _samples(first: Record, table: pa.Table) -> tuple[_Read, str]:
    """What lmms-eval writes with `--log_samples`."""
    ids, questions = table["id"].to_pylist(), table["question"].to_pylist()
    named = _question_id(first.values) is not None
    answer = next(name for name in RESPONSES if name in first.values)

    def position(place: str, values: Mapping[str, Any]) -> str:
        number = values.get("doc_id")
        if not isinstance(number, int) or not 0 <= number < len(ids):
            raise DataError(
                f"{place}: got the doc_id {number!r:.80}; expected the position of a question, a "
                f"whole number from 0 to {len(ids) - 1:,}. Is it another split?"
            )
        doc = values.get("doc")
        asked = (doc if isinstance(doc, dict) else {}).get("question", values.get("input"))
        if isinstance(asked, str) and _plain(questions[number]) not in _plain(asked):
            raise DataError(
                f"{place}: doc_id {number} asks {asked!r:.200}, but the question at this position "
                f"is {questions[number]!r:.200} (id {ids[number]!r}). The samples are of another "
                f"split, or in another order: add a column question_id."
            )
        return ids[number]

    def read(place: str, values: Mapping[str, Any]) -> tuple[str, str]:
        text = _text(place, answer, _only(values.get(answer)))
        if named:
            return _id(place, "question_id", _question_id(values)), text
        return position(place, values), text

    by = "'question_id'" if named else "'doc_id', the position in the split, counted from 0"
    return read, f"samples of lmms-eval: answers from {answer!r}, questions by {by}"


def _question_id(values: Mapping[str, Any]) -> Any:
    """The id that a sample of lmms-eval has, if it does."""
    parts = (values.get("doc"), values.get("submission"), values)
    holders = (part for part in parts if isinstance(part, dict))
    return next((part["question_id"] for part in holders if "question_id" in part), None)


def _only(value: Any) -> Any:
    """The one response in lists of one."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value


def _id(place: str, name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise DataError(
            f"{place}: got {value!r:.80} for {name!r}; expected a question's id, a text or a whole "
            f"number."
        )
    return str(value)


def _text(place: str, name: str, value: Any) -> str:
    try:
        return clean_text(value)
    except ValueError as error:
        raise DataError(
            f"{place}: {name!r}: {error}. Expected one answer; write the empty text where there is "
            f"none."
        ) from None


def _prediction(place: str, answer: str, values: Mapping[str, Any]) -> Prediction:
    by_head = values.get("by_head") or {}
    if not isinstance(by_head, dict) or not all(isinstance(a, str) for a in by_head.values()):
        raise DataError(f"{place}: got {by_head!r:.80} for 'by_head'; expected each head's answer.")
    probability, watched = (_share(place, name, values) for name in ("probability", "watched"))
    return Prediction(answer, probability, by_head, watched, values.get("calibrated") is True)


def _share(place: str, name: str, values: Mapping[str, Any]) -> float | None:
    """A probability; None for none, or an empty cell."""
    value = values.get(name)
    if value is None or value == "":
        return None
    try:
        share = float(value)
    except (TypeError, ValueError):
        share = float("nan")
    if not 0 <= share <= 1:
        raise DataError(f"{place}: got {value!r:.80} for {name!r}; expected a number in [0, 1].")
    return share


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _listed(texts: list[str], at_most: int = 3) -> str:
    more = ", ..." if len(texts) > at_most else ""
    return ", ".join(map(repr, texts[:at_most])) + more
