"""VQA's own format: a file of questions and a file of annotations, joined by question id."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from vlm.core.validation import counted
from vlm.datasets.errors import DataError, report
from vlm.datasets.readers.official import each_record, fields, json_file, json_records
from vlm.datasets.table import question_table

Record = dict[str, Any]
"""A question or an annotation as it stands in the file."""


def annotators(annotation: Record) -> list[str]:
    """What the annotators answered, from an annotation of `read_vqa`'s.

    Their order means nothing, so those who gave the `multiple_choice_answer` (the file's own
    choice of the most frequent one) come first: what takes the first of the most frequent
    answers takes that one on a tie too.
    """
    chosen = annotation.get("multiple_choice_answer")
    given: list[str] = annotation["answers"]
    return sorted(given, key=lambda answer: answer != chosen)


def read_vqa(
    questions: Path,
    annotations: Path | None,
    image: Callable[[Record], str],
    answers: Callable[[Record], list[str]] = annotators,
) -> pa.Table:
    """Join a file of questions with its annotations, in the order of the questions.

    Args:
        questions: a JSON object with a list of `questions`, or that list alone (VQA-CP).
        annotations: the same with `annotations`; None where answers are not published.
        image: the path of a question's image.
        answers: which of an annotation's `answers`, a list of texts here.

    Raises:
        DataError: a file that is not so, questions without annotations, annotations without
            questions (with counts and the first ids), an id that repeats.
    """
    records = json_records(questions, "questions")

    def question(number: int, record: Record) -> Iterator[tuple[int, Record]]:
        fields(record, questions, number, question_id=str | int, question=str)
        yield number, record

    asked = list(each_record(enumerate(records, start=1), question))
    known = None if annotations is None else _by_id(annotations)
    if known is not None:
        _check_join(_ids(records), questions, known, annotations)

    def rows(number: int, record: Record) -> Iterator[Record]:
        key = str(record["question_id"])
        row = {"id": key, "number": number, "image": image(record), "question": record["question"]}
        if known is not None:
            annotation = known.get(key)
            if annotation is None:  # reported already
                return
            row |= {
                "answers": answers(annotation),
                "answer_type": annotation.get("answer_type"),
                "question_type": annotation.get("question_type"),
            }
        yield row

    return question_table(each_record(asked, rows), str(questions))


def read_mscoco(
    root: Path,
    part: str,
    images: Path,
    get: str,
    prefix: str = "",
    folders: tuple[str, str] = (".", "."),
    answers: Callable[[Record], list[str]] = annotators,
) -> pa.Table:
    """A part of a set over COCO's images of 2014 and 2015, under VQA's own file names.

    Args:
        part: "train2014", "val2014", "test2015" or "test-dev2015"; tests have no annotations.
        images: folder with `train2014`, `val2014` and `test2015`.
        get: where the set comes from, for the error.
        prefix: of the file names.
        folders: of questions and annotations, under `root`.
        answers: as for `read_vqa`.
    """
    test = part.startswith("test")
    folder = "test2015" if test else part
    questions = json_file(
        root / folders[0] / f"{prefix}OpenEnded_mscoco_{part}_questions.json", get
    )
    annotations = root / folders[1] / f"{prefix}mscoco_{part}_annotations.json"
    return read_vqa(
        questions,
        None if test else json_file(annotations, get),
        lambda question: coco_image(images, folder, question, questions),
        answers,
    )


def coco_image(images: Path, part: str, question: Record, source: Path) -> str:
    """The image of a question of the file `source`, under COCO's names of 2014 and 2015."""
    (number,) = fields(question, source, question["question_id"], image_id=int)
    return f"{images}/{part}/COCO_{part}_{number:012d}.jpg"


def answer_text(given: Record) -> Any:
    """Of an annotator's answer its text alone (for `read_json`): VQA v2 has millions of them."""
    answer = None if "question_id" in given else given.get("answer")
    return sys.intern(answer) if isinstance(answer, str) else given


def _by_id(path: Path) -> dict[str, Record | None]:
    """Annotations by question; None for a malformed one, which is reported."""
    records = json_records(path, "annotations", answer_text)

    def annotation(number: int, record: Record) -> Iterator[tuple[int, str, Record]]:
        key, answers, *_ = fields(
            record,
            path,
            number,
            question_id=str | int,
            answers=list,
            answer_type=str | None,
            question_type=str | None,
        )
        if not all(isinstance(answer, str) for answer in answers):
            raise DataError(
                f"{path}, question {key}: expected a list of objects with an 'answer' each, a "
                f"text. Is this the set's own file?"
            )
        yield number, str(key), record

    found: dict[str, Record | None] = dict.fromkeys(_ids(records))
    for number, key, record in each_record(enumerate(records, start=1), annotation):
        if found[key] is None:
            found[key] = record
        else:
            report("duplicate id", f"{path}, annotation {number}: question {key} has one already.")
    return found


def _ids(records: Iterable[Any]) -> Iterator[str]:
    """The ids of questions or annotations, of the malformed ones too as far as they have one."""
    for record in records:
        key = record.get("question_id") if isinstance(record, dict) else None
        if isinstance(key, str | int):
            yield str(key)


def _check_join(
    keys: Iterable[str],
    questions: Path,
    known: Mapping[str, Record | None],
    annotations: Path | None,
) -> None:
    ids = dict.fromkeys(keys)
    without = [key for key in ids if key not in known]
    strangers = [key for key in known if key not in ids]
    problems = []
    if without:
        problems.append(f"{_some(without, 'question')} of {questions} without an annotation")
    if strangers:
        problems.append(f"{_some(strangers, 'annotation')} of {annotations} without a question")
    if problems:
        report(
            "questions and annotations",
            f"{'; '.join(problems)}. Take both files of the same split; if you did, get them "
            "again.",
        )


def _some(ids: Sequence[str], name: str) -> str:
    return f"{counted(len(ids), name)} (first ids {', '.join(ids[:3])})"
