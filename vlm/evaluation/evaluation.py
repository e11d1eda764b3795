"""The answers of a whole split, each question once, and their scores."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import pyarrow as pa
import torch
import torch.distributed as dist
from torch import Tensor

from vlm.core.batch import Batch
from vlm.core.finite import check_finite
from vlm.data.datamodule import VQADataModule
from vlm.datasets.table import image_groups
from vlm.heads.base import AnswerHead
from vlm.heads.generation.head import Generation
from vlm.heads.multi_task import MultiTask, answering
from vlm.metrics import Mean, accuracy_by, anls, exact_match

NO_TYPE = "(none)"
"""The type of questions without one, if others have types."""


class Prediction(NamedTuple):
    """One answered question.

    Attributes:
        answer: the most likely one.
        probability: its own, in [0, 1].
        by_head: the answers of the heads of a `MultiTask`; empty for others.
        watched: the probability of the answer that the data set watches; None where there is none,
            or the model cannot give it.
    """

    answer: str
    probability: float
    by_head: Mapping[str, str] = {}
    watched: float | None = None


class Evaluation:
    """Collects answers during a pass over a split; `finish` makes it whole on every process.

    Scores are the data set's own (`VQADataModule.score`) on the answers' text: a correct answer
    that the model's vocabulary lacks, or holds in another order than the data, is judged as what
    it is.

    Args:
        table: questions of the split.
        head: reads answers from its output.
        data: says how an answer is scored.

    Attributes:
        predictions: by question id, in the order of the table once finished.
        scores: accuracy in [0, 1] of each question of the table; empty without answers.
        loss: mean over questions; NaN where answers are unknown.
    """

    def __init__(self, table: pa.Table, head: AnswerHead, data: VQADataModule) -> None:
        self.table, self.head, self.data = table, head, data
        self.predictions: dict[str, Prediction] = {}
        self.scores: list[float] = []
        self.loss = float("nan")
        # By a batch's first question, since a process may repeat another's (`ImageGroupSampler`).
        self._losses: dict[str, tuple[Tensor, int]] = {}

    def update(self, output: Any, batch: Batch) -> None:
        """Add a batch's answers, from the head's output.

        Raises:
            NotFiniteError: the model's output is not, so it has no answer; names the questions.
        """
        check_finite(output, batch.ids)
        if isinstance(self.head, MultiTask):
            each = self.head.decode_each(output, 1)
            decoded = each[self.head.answers_by]
        else:
            each, decoded = {}, self.head.decode(output, 1)
        # A head that writes has no scores in its output: they come with the answers.
        check_finite(torch.tensor([ranked[0][1] for ranked in decoded]), batch.ids)
        watched = self._watched(output, len(batch.ids))
        for row, (question, ranked) in enumerate(zip(batch.ids, decoded, strict=True)):
            by_head = {name: answers[row][0][0] for name, answers in each.items()}
            self.predictions[question] = Prediction(*ranked[0], by_head, watched[row])
        if batch.targets is not None:
            loss = self.head.loss(output, batch._replace(total=1))
            self._losses[batch.ids[0]] = loss, len(batch.ids)

    def _watched(self, output: Any, questions: int) -> Sequence[float | None]:
        """The probability of the answer that the data set watches, for each question."""
        answer, vocabulary = self.data.watched, self.head.vocabulary
        if answer is None or vocabulary is None or answer not in vocabulary.answers:
            return [None] * questions
        ranked = self.head.decode(output, len(vocabulary))
        return [dict(answers)[answer] for answers in ranked]

    def finish(self, partial: bool = False) -> None:
        """Gather from all processes and score; the same on each of them.

        Args:
            partial: only some of the batches were to be read; score the questions in them.

        Raises:
            RuntimeError: a question of the table went without an answer.
        """
        # One transfer from the device for all of them.
        sums = (
            torch.stack([loss for loss, _ in self._losses.values()]).tolist()
            if self._losses
            else []
        )
        counts = [n for _, n in self._losses.values()]
        mine = (
            self.predictions,
            dict(zip(self._losses, zip(sums, counts, strict=True), strict=True)),
        )
        gathered = [mine]
        if dist.is_available() and dist.is_initialized():
            gathered = [mine] * dist.get_world_size()
            dist.all_gather_object(gathered, mine)
        merged = {q: p for predictions, _ in gathered for q, p in predictions.items()}
        losses = {q: loss for _, losses in gathered for q, loss in losses.items()}
        ids = self.table["id"].to_pylist()
        lost = [question for question in ids if question not in merged]
        if lost and not partial:
            raise RuntimeError(
                f"{len(lost)} of {len(ids)} questions were never answered, first {lost[0]!r}."
            )
        if lost:
            self.table = self.table.filter(pa.array([question in merged for question in ids]))
            ids = self.table["id"].to_pylist()
        self.predictions = {question: merged[question] for question in ids}
        if losses:
            self.loss = math.fsum(loss for loss, _ in losses.values()) / sum(
                n for _, n in losses.values()
            )
        if self.table["answers"].null_count == 0:
            self.scores = [
                self.data.score(self.predictions[question].answer, answers)
                for question, answers in zip(ids, self.table["answers"].to_pylist(), strict=True)
            ]

    @property
    def accuracy(self) -> float:
        """Mean accuracy in [0, 1]; NaN without known answers."""
        return sum(self.scores) / len(self.scores) if self.scores else float("nan")

    @property
    def images(self) -> list[int]:
        """The image of each question, as a number: the clusters of an interval."""
        return image_groups(self.table).tolist()

    def types(self, column: str | None = None) -> dict[str, Mean]:
        """Accuracy by type, in alphabetical order; empty where the data have none.

        Args:
            column: of the questions; None for the one that the data set reports by.
        """
        keys = self.keys(column or self.data.types)
        if not self.scores or set(keys) == {NO_TYPE}:
            return {}
        return dict(sorted(accuracy_by(self.scores, keys).items()))

    def keys(self, column: str) -> list[str]:
        """The type of each question in a column; `NO_TYPE` for one that has none."""
        return [NO_TYPE if key is None else key for key in self.table[column].to_pylist()]

    def summary(self) -> dict[str, float]:
        """The accuracies of a `MultiTask`'s heads, exact match and ANLS of a head that writes, and
        the data set's further figures (`VQADataModule.summarize`); none without answers."""
        if not self.scores:
            return {}
        answers = [prediction.answer for prediction in self.predictions.values()]
        own = self.data.summarize(self.table, answers, self.scores)
        watched = [p.watched for p in self.predictions.values() if p.watched is not None]
        if watched:
            own |= self.data.summarize_watched(self.table, watched)
        return self.heads() | self.text(answers) | own

    def text(self, answers: list[str]) -> dict[str, float]:
        """How close written answers are to the annotators', in [0, 1]; none of other heads."""
        if not isinstance(answering(self.head), Generation):
            return {}
        pairs = list(zip(answers, self.table["answers"].to_pylist(), strict=True))
        return {
            "exact_match": fmean(exact_match(*pair) for pair in pairs),
            "anls": fmean(anls(*pair) for pair in pairs),
        }

    def heads(self) -> dict[str, float]:
        """Mean accuracy in [0, 1] of each head of a `MultiTask`, as `<its name>_accuracy`."""
        if not self.scores or not isinstance(self.head, MultiTask):
            return {}
        given = self.table["answers"].to_pylist()
        predictions = list(self.predictions.values())
        return {
            f"{name}_accuracy": fmean(
                self.data.score(prediction.by_head[name], answers)
                for prediction, answers in zip(predictions, given, strict=True)
            )
            for name in self.head.heads
        }

    def write(self, path: Path) -> None:
        """Write one JSON line per question: id, image, question, answer type, answer,
        probability, what a `MultiTask`'s heads answered, the choices where the head takes them
        and there are some, and answers and score where they are known."""
        rows = self.table.to_pylist()
        with path.open("w", encoding="utf-8") as file:
            for number, row in enumerate(rows):
                prediction = self.predictions[row["id"]]
                line = {
                    "id": row["id"],
                    "image": row["image"],
                    "question": row["question"],
                    "answer_type": row["answer_type"],
                    "answer": prediction.answer,
                    "probability": round(prediction.probability, 6),
                }
                if prediction.by_head:
                    line["by_head"] = dict(prediction.by_head)
                if self.head.takes_choices and row["choices"] is not None:
                    line["choices"] = row["choices"]
                if self.scores:
                    line |= {"answers": row["answers"], "score": self.scores[number]}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
