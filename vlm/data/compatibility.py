"""Whether a split fits a model: what is found before a training or an evaluation begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlm.data.compatibility_choices import check_choices
from vlm.data.compatibility_written import check_written
from vlm.data.shared_questions import check_shared
from vlm.heads.multi_task import answering
from vlm.model import VQAModel

if TYPE_CHECKING:
    from vlm.data.datamodule import Split, VQADataModule


def check_fits(data: VQADataModule, split: Split, model: VQAModel) -> None:
    """Check that a model can learn from a split, be scored on it, or answer its questions.

    To answer, only the head that answers counts; the others learn and are scored beside it.

    Raises:
        DataError: questions without answers or choices, questions both trained on and scored, or
            texts that the model cannot write.
    """
    if split != "predict":
        data.check_answers(split)
    if split in ("validation", "test"):
        check_shared(data, split)
    table = data.table(split)
    head = answering(model.head) if split == "predict" else model.head
    if head.takes_choices:
        check_choices(table, split)
    check_written(head, table, split)
