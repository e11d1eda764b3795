"""Answers and choices against the heads that learn to write, or rank, them."""

from __future__ import annotations

import pyarrow as pa
from torch import nn

from vlm.datasets.errors import DataError
from vlm.datasets.table import stream
from vlm.heads.generation.head import Generation


def check_written(model: nn.Module, table: pa.Table, split: str) -> None:
    """Check, before it begins, that every head that writes can write what it learns or ranks.

    Args:
        model: or whatever holds it.
        table: the questions.
        split: whose they are; of "predict" no answers are read. In evaluation a longer one is
            judged by its beginning.

    Raises:
        DataError: answers or choices that are too long, with their number, or that a head cannot
            write.
    """
    for head in model.modules():
        if isinstance(head, Generation):
            try:
                if split != "predict":
                    answers = (given for (given,) in stream(table, "answers"))
                    head.check_answers(answers, cut=split != "train")
                if head.takes_choices:
                    head.check_choices(given for (given,) in stream(table, "choices"))
            except ValueError as error:
                raise DataError(f"{split}: {error}") from error
