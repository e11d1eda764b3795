"""What an accuracy is to be compared with: floors without the image, and the ceiling."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pyarrow as pa

from vlm.datasets.table import stream
from vlm.heads.vocabulary import AnswerVocabulary
from vlm.metrics import vqa_accuracy


class Floors(NamedTuple):
    """Per question of a split, the accuracy in [0, 1] of one who sees less.

    Attributes:
        majority: always gives the most frequent training answer.
        question_only: gives the most frequent training answer to this very question, or the
            majority's if training never asked it.
        ceiling: always gives the best answer that can be given.
        unanswerable: number of questions on which that earns nothing.
    """

    majority: array[float]
    question_only: array[float]
    ceiling: array[float]
    unanswerable: int


def compute_floors(
    train: pa.Table,
    table: pa.Table,
    answers: Sequence[str] | None,
    score: Callable[[str, Sequence[str]], float] = vqa_accuracy,
    choose: bool = False,
) -> Floors:
    """Floors and ceiling of a split.

    With `choose` all of them pick from the question's choices: the one that was the answer most
    often in training (the first on a tie), the most often to this very question, the best.

    Args:
        train: questions the model was trained on.
        table: questions of the split, with answers.
        answers: the model's vocabulary; None for one that can give any text, whose best is the
            best of the annotators' own answers.
        score: scores an answer against the annotators' (`Dataset.score`).
        choose: whether the model picks from each question's choices.
    """
    overall: Counter[str] = Counter()
    by_question: defaultdict[str, Counter[str]] = defaultdict(Counter)
    # Of the questions that are asked here alone: training has many more.
    asked_here = {question for (question,) in stream(table, "question")}
    for question, given in stream(train, "question", "answers"):
        overall.update(given)
        if question in asked_here:
            by_question[question].update(given)
    majority = overall.most_common(1)[0][0]
    best = {question: counts.most_common(1)[0][0] for question, counts in by_question.items()}
    ceiling = best_scores(table, answers, score, choose)
    floors = Floors(array("d"), array("d"), ceiling, sum(best == 0 for best in ceiling))
    for question, given, choices in stream(table, "question", "answers", "choices"):
        if choose:
            to_this = by_question.get(question, Counter())
            frequent = max(choices, key=lambda choice: overall[choice])
            asked = max(choices, key=lambda choice: (to_this[choice], overall[choice]))
        else:
            frequent, asked = majority, best.get(question, majority)
        floors.majority.append(score(frequent, given))
        floors.question_only.append(score(asked, given))
    return floors


def best_scores(
    table: pa.Table,
    answers: Sequence[str] | None,
    score: Callable[[str, Sequence[str]], float],
    choose: bool,
) -> array[float]:
    """Of each question, the accuracy of the best answer that can be given; see `compute_floors`."""
    vocabulary = None if answers is None else AnswerVocabulary(answers)
    scores = array("d")
    for given, choices in stream(table, "answers", "choices"):
        if choose or vocabulary is None:
            scores.append(max(score(text, given) for text in (choices if choose else given)))
        else:
            scores.append(vocabulary.best_score(given, score))
    return scores
