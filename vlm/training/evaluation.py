"""The answers of a whole split, each question once, and their scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import torch
import torch.distributed as dist
from torch import Tensor

from vlm.batch import Batch
from vlm.data.datamodule import VQADataModule
from vlm.data.questions import image_groups
from vlm.heads.base import AnswerHead
from vlm.metrics import Mean, accuracy_by


class Prediction(NamedTuple):
    """One answered question: the most likely answer and its probability in [0, 1]."""

    answer: str
    probability: float


class Evaluation:
    """Collects answers during a pass over a split; `finish` makes it whole on every process.

    Scores are the data set's own (`VQADataModule.score`) on the answers' text: a correct answer
    that the model's vocabulary lacks, or holds in another order than the data, is judged as what
    it is.

    Args:
        table: questions of the split.
        head: gives answers to scores.
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
        self._losses: list[tuple[Tensor, int]] = []

    def update(self, scores: Tensor, batch: Batch) -> None:
        """Add a batch's answers."""
        for question, ranked in zip(batch.ids, self.head.decode(scores, 1), strict=True):
            self.predictions[question] = Prediction(*ranked[0])
        if batch.targets is not None:
            self._losses.append((self.head.loss(scores, batch) * batch.total, len(batch.ids)))

    def finish(self, partial: bool = False) -> None:
        """Gather from all processes and score; the same on each of them.

        Args:
            partial: only some of the batches were to be read; score the questions in them.

        Raises:
            RuntimeError: a question of the table went without an answer.
        """
        total = float(torch.stack([loss for loss, _ in self._losses]).sum()) if self._losses else 0
        count = sum(n for _, n in self._losses)
        gathered = [(self.predictions, total, count)]
        if dist.is_available() and dist.is_initialized():
            gathered = [({}, 0.0, 0)] * dist.get_world_size()
            dist.all_gather_object(gathered, (self.predictions, total, count))
        merged = {q: p for predictions, _, _ in gathered for q, p in predictions.items()}
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
        count = sum(n for _, _, n in gathered)
        if count:
            self.loss = sum(total for _, total, _ in gathered) / count
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
        keys = self.table[column or self.data.types].to_pylist()
        if not self.scores or None in keys:
            return {}
        return dict(sorted(accuracy_by(self.scores, keys).items()))

    def summary(self) -> dict[str, float]:
        """The data set's further figures (`VQADataModule.summarize`); none without answers."""
        if not self.scores:
            return {}
        answers = [prediction.answer for prediction in self.predictions.values()]
        return self.data.summarize(self.table, answers, self.scores)

    def write(self, path: Path) -> None:
        """Write one JSON line per question: id, image, question, answer type, answer,
        probability, and answers and score where they are known."""
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
                if self.scores:
                    line |= {"answers": row["answers"], "score": self.scores[number]}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
