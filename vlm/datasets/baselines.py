"""What an accuracy is to be compared with: floors without the image, and the ceiling."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from vlm.core.terminal import track
from vlm.datasets.base import Dataset
from vlm.datasets.table import stream
from vlm.heads.vocabulary import AnswerVocabulary


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

    def of(self, rows: np.ndarray) -> Floors:
        """Those of the questions where the mask `rows` (Q,) is true."""
        parts = (np.asarray(values)[rows] for values in self[:3])
        majority, question_only, ceiling = (array("d", part.tobytes()) for part in parts)
        return Floors(majority, question_only, ceiling, sum(best == 0 for best in ceiling))


def compute_floors(
    dataset: Dataset,
    train: pa.Table,
    table: pa.Table,
    answers: Sequence[str] | None,
    choose: bool = False,
) -> Floors:
    """Floors and ceiling of a split; of a mixture's question, those of its own set.

    With `choose` all of them pick from the question's choices: the one that was the answer most
    often in training (the first on a tie), the most often to this very question, the best.

    Args:
        dataset: scores the answers.
        train: questions the model was trained on.
        table: questions of the split, with answers.
        answers: the model's vocabulary; None for one that can give any text, whose best is the
            best of the annotators' own answers.
        choose: whether the model picks from each question's choices.
    """
    sets = _sets(table)
    overall: defaultdict[str, Counter[str]] = defaultdict(Counter)
    by_question: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    # Of the questions that are asked here alone: training has many more.
    asked_here = {question for (question,) in stream(table, "question")}
    known = zip(stream(train, "question", "answers"), _sets(train), strict=True)
    for (question, given), which in track(known, "Counting training answers", len(train)):
        overall[which].update(given)
        if question in asked_here:
            by_question[which, question].update(given)
    majority = {which: counts.most_common(1)[0][0] for which, counts in overall.items()}
    best = {key: counts.most_common(1)[0][0] for key, counts in by_question.items()}
    frequent: list[str] = []
    asked: list[str] = []
    for (question, choices), which in zip(stream(table, "question", "choices"), sets, strict=True):
        if choose:
            ever, to_this = overall[which], by_question.get((which, question), Counter())
            counts = {choice: (to_this[choice], ever[choice]) for choice in choices}
            frequent.append(max(choices, key=ever.__getitem__))
            asked.append(max(choices, key=counts.__getitem__))
        else:
            frequent.append(majority[which])
            asked.append(best.get((which, question), majority[which]))
    ceiling = best_scores(dataset, table, answers, choose)
    return Floors(
        array("d", dataset.scores(table, track(frequent, "Scoring the majority answer"))),
        array("d", dataset.scores(table, track(asked, "Scoring the question-only answer"))),
        ceiling,
        sum(score == 0 for score in ceiling),
    )


def best_scores(
    dataset: Dataset, table: pa.Table, answers: Sequence[str] | None, choose: bool
) -> array[float]:
    """Of each question, the accuracy of the best answer that can be given; see `compute_floors`."""
    vocabulary = None if answers is None else AnswerVocabulary(answers)
    scores = array("d")
    rows = stream(table, "answers", "choices")
    for score, (given, choices) in zip(
        dataset.scoring(table), track(rows, "Computing the ceiling", len(table)), strict=False
    ):
        if choose or vocabulary is None:
            scores.append(max(score(text, given) for text in (choices if choose else given)))
        else:
            scores.append(vocabulary.best_score(given, score))
    return scores


def _sets(table: pa.Table) -> list[str]:
    """The set of each question, where they come from several (`vlm.datasets.Mixture`)."""
    return table["set"].to_pylist() if "set" in table.column_names else [""] * len(table)
