"""Answers of a training against the heads that learn to write them."""

from __future__ import annotations

import pyarrow as pa
from torch import nn

from vlm.data.problems import DataError
from vlm.data.questions import stream
from vlm.heads.generation import Generation


def check_written(model: nn.Module, table: pa.Table) -> None:
    """Check, before a training begins, that every head that writes can write all answers.

    Args:
        model: or whatever holds it.
        table: the training questions.

    Raises:
        DataError: answers that are too long, with their number, or that a head cannot write.
    """
    for head in model.modules():
        if isinstance(head, Generation):
            try:
                head.check_answers(given for (given,) in stream(table, "answers"))
            except ValueError as error:
                raise DataError(str(error)) from error
