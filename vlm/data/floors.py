"""What an accuracy is to be compared with: floors without the picture, and the ceiling."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pyarrow as pa

from vlm.data.questions import stream
from vlm.heads.vocabulary import AnswerVocabulary
from vlm.metrics import vqa_accuracy


class Floors(NamedTuple):
    """Per question of a split, the accuracy in [0, 1] of one who sees less.

    Attributes:
        majority: always gives the most frequent training answer.
        question_only: gives the most frequent training answer to this very question, or the
            majority's if training never asked it.
        ceiling: always gives the best answer that the vocabulary holds.
        unanswerable: number of questions on which the vocabulary can earn nothing.
    """

    majority: array[float]
    question_only: array[float]
    ceiling: array[float]
    unanswerable: int


def compute_floors(
    train: pa.Table,
    table: pa.Table,
    answers: Sequence[str],
    score: Callable[[str, Sequence[str]], float] = vqa_accuracy,
) -> Floors:
    """Floors and ceiling of a split.

    Args:
        train: questions the model was trained on.
        table: questions of the split, with answers.
        answers: the model's vocabulary.
        score: of an answer, given the annotators' (`VQADataModule.score`).
    """
    overall: Counter[str] = Counter()
    by_question: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for question, given in stream(train, "question", "answers"):
        overall.update(given)
        by_question[question].update(given)
    majority = overall.most_common(1)[0][0]
    best = {question: counts.most_common(1)[0][0] for question, counts in by_question.items()}
    vocabulary = AnswerVocabulary(answers)
    floors = Floors(array("d"), array("d"), array("d"), 0)
    for question, given in stream(table, "question", "answers"):
        floors.majority.append(score(majority, given))
        floors.question_only.append(score(best.get(question, majority), given))
        floors.ceiling.append(vocabulary.best_score(given, score))
    return floors._replace(unanswerable=sum(best == 0 for best in floors.ceiling))
