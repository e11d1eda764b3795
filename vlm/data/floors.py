"""What an accuracy is to be compared with: floors without the picture, and the ceiling."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa

from vlm.heads.vocabulary import AnswerVocabulary
from vlm.metrics import vqa_accuracy


class Floors(NamedTuple):
    """Per question of a split, the accuracy in [0, 1] of one who sees less.

    Attributes:
        majority: always gives the most frequent training answer.
        question_only: gives the most frequent training answer to this very question, or the
            majority's if training never asked it.
        ceiling: always gives the best answer that the vocabulary holds.
        unanswerable: number of questions none of whose answers is in the vocabulary.
    """

    majority: list[float]
    question_only: list[float]
    ceiling: list[float]
    unanswerable: int


def compute_floors(train: pa.Table, table: pa.Table, answers: Sequence[str]) -> Floors:
    """Floors and ceiling of a split.

    Args:
        train: questions the model was trained on.
        table: questions of the split, with answers.
        answers: the model's vocabulary.
    """
    overall: Counter[str] = Counter()
    by_question: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for question, given in zip(*_columns(train), strict=True):
        overall.update(given)
        by_question[question].update(given)
    majority = overall.most_common(1)[0][0]
    best = {question: counts.most_common(1)[0][0] for question, counts in by_question.items()}
    vocabulary = AnswerVocabulary(answers)
    questions, known = _columns(table)
    ceiling = [vocabulary.best_score(given) for given in known]
    return Floors(
        [vqa_accuracy(majority, given) for given in known],
        [vqa_accuracy(best.get(q, majority), g) for q, g in zip(questions, known, strict=True)],
        ceiling,
        sum(not any(answer in vocabulary for answer in given) for given in known),
    )


def _columns(table: pa.Table) -> tuple[list[str], list[list[str]]]:
    return table["question"].to_pylist(), table["answers"].to_pylist()
