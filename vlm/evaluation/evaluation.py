"""The answers of a model to a whole split, each question once."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import torch
import torch.distributed as dist
from torch import Tensor

from vlm.core.batch import Batch
from vlm.core.calibration import Calibration
from vlm.core.finite import check_finite, check_rows, finite_rows
from vlm.core.host import HostCopy
from vlm.datasets.base import Dataset
from vlm.evaluation.results import Prediction, Results
from vlm.heads.base import AnswerHead
from vlm.heads.calibration import decode
from vlm.heads.classification import VocabularyHead
from vlm.heads.multi_task import MultiTask, answering


class Evaluation:
    """Collects a model's answers during a pass over a split; `finish` has those of every process.

    Args:
        table: questions of the split.
        head: head that answers them.
        dataset: scores the answers.
        calibration: the model's own, for the answers' probabilities.

    Attributes:
        predictions: answers of this process, by question id.
        results: the answers and scores of the split, once finished.
        loss: mean over questions, once finished; NaN where answers are unknown.
    """

    def __init__(
        self,
        table: pa.Table,
        head: AnswerHead,
        dataset: Dataset,
        calibration: Calibration | None = None,
    ) -> None:
        self.table, self.head, self.dataset = table, head, dataset
        self.calibration = calibration
        self.predictions: dict[str, Prediction] = {}
        self.results: Results | None = None
        self.loss = float("nan")
        # By a batch's first question, since a process may repeat another's (`ImageGroupSampler`).
        self._losses: dict[str, tuple[Tensor, int]] = {}

    def update(self, output: Any, batch: Batch) -> None:
        """Add a batch's answers, from the head's output.

        Raises:
            NotFiniteError: the model's output is not, so it has no answer; names the questions.
        """
        # Read once the answers are there, so that a device is waited for once.
        good = HostCopy(finite_rows(output, len(batch.ids)))
        watched = self._watched(output)
        each = self.head.decode_each(output, 1) if isinstance(self.head, MultiTask) else {}
        if isinstance(self.head, MultiTask) and self.calibration is None:
            decoded = each[self.head.answers_by]
        else:
            decoded = decode(self.head, output, 1, self.calibration)
        # A head that writes has no scores in its output: they come with the answers.
        check_rows(good.read()[0], batch.ids)
        check_finite(torch.tensor([ranked[0][1] for ranked in decoded]), batch.ids)
        shares: list[float | None] = [None] * len(batch.ids)
        if watched is not None:
            shares = watched.read()[0].tolist()
        for row, (question, ranked) in enumerate(zip(batch.ids, decoded, strict=True)):
            by_head = {name: answers[row][0][0] for name, answers in each.items()}
            self.predictions[question] = Prediction(
                *ranked[0], by_head, shares[row], self.calibration is not None
            )
        if batch.targets is not None:
            loss = self.head.loss(output, batch._replace(total=1))
            self._losses[batch.ids[0]] = loss, len(batch.ids)

    def _watched(self, output: Any) -> HostCopy | None:
        """The probability of the answer that the data set watches, for each question."""
        vocabulary = self.head.vocabulary
        if vocabulary is None or (answer := self.dataset.watched) is None:
            return None
        if answer not in vocabulary:
            return None
        head = answering(self.head)
        if not isinstance(head, VocabularyHead):
            ranked = self.head.decode(output, len(vocabulary))
            return HostCopy(torch.tensor([dict(answers)[answer] for answers in ranked]))
        logits = output[self.head.answers_by] if isinstance(self.head, MultiTask) else output
        return HostCopy(head.probabilities(logits)[:, head.vocabulary.indices([answer])[0]])

    def finish(self, partial: bool = False) -> Results:
        """Gather from all processes and score; the same on each of them. If `partial`, only some of
        the batches were to be read, and their questions are scored.

        Raises:
            RuntimeError: a question of the table went without an answer.
        """
        counts = [questions for _, questions in self._losses.values()]
        sums: list[float] = []
        if self._losses:  # one transfer from the device for all of them
            sums = torch.stack([loss for loss, _ in self._losses.values()]).tolist()
        losses = dict(zip(self._losses, zip(sums, counts, strict=True), strict=True))
        mine = (self.predictions, losses)
        gathered = [mine]
        if dist.is_available() and dist.is_initialized():
            gathered = [mine] * dist.get_world_size()
            dist.all_gather_object(gathered, mine)
        merged = {q: p for predictions, _ in gathered for q, p in predictions.items()}
        losses = {q: loss for _, losses in gathered for q, loss in losses.items()}
        ids, answered = self.table["id"].to_pylist(), self.table
        if lost := [question for question in ids if question not in merged]:
            if not partial:
                raise RuntimeError(
                    f"{len(lost)} of {len(ids)} questions were never answered, first {lost[0]!r}."
                )
            answered = answered.filter(pa.array([question in merged for question in ids]))
        if losses:
            sums, counts = map(list, zip(*losses.values(), strict=True))
            self.loss = math.fsum(sums) / sum(counts)
        head = answering(self.head)
        how = head.writes_text, head.takes_choices
        self.results = Results(answered, merged, self.dataset, *how)
        return self.results
