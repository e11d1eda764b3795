"""How well a model answers the questions of a split, by the data set's own metric."""

from __future__ import annotations

from typing import Literal, NamedTuple

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

from vlm.data.datamodule import VQADataModule
from vlm.metrics.aggregate import Interval, bootstrap_interval
from vlm.model import VQAModel
from vlm.studies.comparison.build import quiet
from vlm.training.task import VQATask

ExamSplit = Literal["validation", "test"]


class Exam(NamedTuple):
    """What a model scored.

    Attributes:
        ids: of the questions.
        scores: of each, in [0, 1].
        images: the picture of each, as a number.
    """

    ids: list[str]
    scores: list[float]
    images: list[int]

    @property
    def accuracy(self) -> float:
        """Mean score, in [0, 1]."""
        return sum(self.scores) / len(self.scores)

    @property
    def interval(self) -> Interval:
        """Of the accuracy, 95 %, over questions clustered by picture."""
        return bootstrap_interval(self.scores, self.images)


class Examiner:
    """Asks models the questions of one split, as `vlm validate` and `vlm test` do.

    Args:
        data: the data set.
        split: of it.

    Raises:
        DataError: no such split, or questions without answers.
    """

    def __init__(self, data: VQADataModule, split: ExamSplit) -> None:
        data.dataset.check_answers(split)
        self.data, self.split = data, split
        with quiet():
            self.trainer = Trainer(
                devices=1,
                logger=False,
                enable_checkpointing=False,
                enable_model_summary=False,
                callbacks=[TQDMProgressBar(refresh_rate=20)],
            )

    def ask(self, model: VQAModel) -> Exam:
        """All questions of the split; the model is in evaluation mode then."""
        task = VQATask(model.image_encoder, model.text_encoder, model.fusion, model.head)
        run = self.trainer.validate if self.split == "validation" else self.trainer.test
        with quiet():
            run(task, datamodule=self.data, verbose=False)
        model.eval()
        assert task.evaluation is not None
        assert task.evaluation.results is not None
        found = task.evaluation.results
        return Exam(found.table["id"].to_pylist(), found.scores, found.images)
