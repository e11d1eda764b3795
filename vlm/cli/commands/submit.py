"""`vlm submit`: the file that an evaluation server expects, with its ids checked."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple

from vlm.cli.command_parser import command_parser
from vlm.core.validation import counted
from vlm.datasets.errors import DataError
from vlm.datasets.readers.json_file import read_json, read_json_lines


class Form(NamedTuple):
    """How a server expects answers.

    Attributes:
        key: what the file of questions calls a question's id.
        written: name of the id in the submission; None for lines of answers alone, in the order of
            the questions.
        answer: name of the answer.
    """

    key: str
    written: str | None
    answer: str = "answer"


FORMS = (
    Form("question_id", "question_id"),  # VQA and TextVQA
    Form("image", "image"),  # VizWiz
    # By its author, https://github.com/facebookresearch/clevr-dataset-gen/issues/2
    Form("question_index", None),  # CLEVR
)
GQA = Form("questionId", "questionId", "prediction")
"""Its questions are an object by id. The form is that of its `eval.py`."""
A_OKVQA = Form("question_id", None)
"""The form of its authors' `evaluation/prepare_predictions.py`: an object by id."""


def submission(
    predictions: Path, questions: Path
) -> list[dict[str, Any]] | list[str] | dict[str, dict[str, str]]:
    """The answers in the order of the questions, as the set's server expects them.

    Args:
        predictions: `predictions.jsonl` of `vlm predict`.
        questions: the set's own file of test questions (VQA v1 and v2, TextVQA, VizWiz, A-OKVQA,
            GQA, CLEVR, and what has one of their forms).

    Returns:
        For VQA and TextVQA `{"question_id": 9000, "answer": "net"}`, for VizWiz
        `{"image": "VizWiz_test_00000000.jpg", "answer": "net"}`, for GQA
        `{"questionId": "201307251", "prediction": "net"}`, for CLEVR the answers alone. For A-OKVQA
        `{"22MexNkBPpdZGX6sxbxVBH": {"multiple_choice": "cab"}}` if all answers were picked from
        choices, else the same with `direct_answer`; its server scores either alone.

    Raises:
        DataError: questions without an answer, answers to no question, one answered twice (with
            counts and the first ids), a file of another form.
    """
    form, ids = _question_ids(questions)
    answers: dict[str, str] = {}
    twice: list[str] = []
    picked = True
    for line, row in read_json_lines(predictions):
        key, answer = row.get("id"), row.get("answer")
        if not isinstance(key, str) or not isinstance(answer, str):
            raise DataError(
                f"{predictions}, line {line}: expected an 'id' and an 'answer', both texts, as "
                f"`vlm predict` writes them."
            )
        if key in answers:
            twice.append(key)
        answers[key] = answer
        choices = row.get("choices")
        picked = picked and isinstance(choices, list) and answer in choices
    expected = {str(key) for key in ids}
    problems = (
        ("question", "without an answer", [str(key) for key in ids if str(key) not in answers]),
        ("answer", "to no question of the file", [key for key in answers if key not in expected]),
        ("question", "answered twice", twice),
    )
    found = [
        f"{counted(len(keys), noun)} {problem} (first ids {', '.join(keys[:3])})"
        for noun, problem, keys in problems
        if keys
    ]
    if found:
        raise DataError(
            f"{predictions} does not fit {questions}: {'; '.join(found)}. Predict all questions of "
            f"this file, with the data set set to it."
        )
    if form is A_OKVQA:
        setting = "multiple_choice" if picked else "direct_answer"
        return {str(key): {setting: answers[str(key)]} for key in ids}
    if form.written is None:
        return [answers[str(key)] for key in ids]
    return [{form.written: key, form.answer: answers[str(key)]} for key in ids]


def _question_ids(path: Path) -> tuple[Form, list[int | str]]:
    """The form of a set's file of questions, and the ids in their order."""
    # Here and not above: `--help` and a mistake need not wait for torch.
    from vlm.datasets.readers.official import fields

    content = read_json(path)
    if isinstance(content, dict):
        if content and all(isinstance(r, dict) and "imageId" in r for r in content.values()):
            return GQA, list(content)
        content = content.get("questions", content.get("data"))
    known = isinstance(content, list) and content and isinstance(content[0], dict)
    first = content[0] if known else {}
    form = A_OKVQA if first.keys() >= {A_OKVQA.key, "choices"} else None
    form = form or next((form for form in FORMS if form.key in first), None)
    if form is None:
        raise DataError(
            f"{path}: not a file of test questions that `vlm submit` can read; expected VQA's, "
            f"TextVQA's, VizWiz's, A-OKVQA's, GQA's or CLEVR's own."
        )
    expected: dict[str, type | UnionType] = {form.key: str | int}
    ids = [fields(row, path, number, **expected)[0] for number, row in enumerate(content, 1)]
    if len(set(map(str, ids))) < len(ids):
        raise DataError(f"{path}: got the same {form.key} more than once; expected each once.")
    return form, ids


def submit(arguments: Sequence[str]) -> None:
    """Write a submission; mistakes end in one line and exit code 1."""
    parser = command_parser(
        "submit",
        "Write an evaluation server's file from the answers of `vlm predict`.",
        "example:\n"
        "  vlm submit PREDICT/predictions.jsonl \\\n"
        "    /data/vqa_v2/v2_OpenEnded_mscoco_test-dev2015_questions.json",
    )
    parser.add_argument("predictions", type=Path, help="predictions.jsonl of `vlm predict`")
    parser.add_argument("questions", type=Path, help="the data set's own file of test questions")
    parser.add_argument(
        "--out",
        type=Path,
        help="file to write (default: submission.json, or .txt for CLEVR, beside the predictions)",
    )
    given = parser.parse_args(arguments)
    try:
        rows = submission(given.predictions, given.questions)
        # CLEVR alone takes lines, one an answer; an object has its ids for rows.
        lines = [row for row in rows if isinstance(row, str)] if isinstance(rows, list) else []
        name = "submission.txt" if lines else "submission.json"
        out = given.out or given.predictions.with_name(name)
        text = "".join(f"{' '.join(line.split())}\n" for line in lines)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text or json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    except (DataError, OSError) as error:
        sys.exit(f"vlm submit: {error}")
    print(f"Wrote {counted(len(rows), 'answer')} to {out}")
