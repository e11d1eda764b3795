"""Questions of a batch whose answers follow from one another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

CONTRADICTION = "contradiction"


class Pairs(NamedTuple):
    """P pairs of questions about the same image.

    Attributes:
        first: (P,) int64, the row of one question.
        second: (P,) int64, the row of the other, which rewords it.
        opposite: (P,) bool: True = one is answered yes where the other is answered no; False = both
            have the same answer.
    """

    first: Tensor
    second: Tensor
    opposite: Tensor


def pairs_among(
    ids: Sequence[str], pairs: Sequence[str | None], relations: Sequence[str | None]
) -> Pairs:
    """The pairs of which both questions are in the batch.

    Args:
        ids: of the Q questions.
        pairs: the id of the question that each one rewords; None for one that rewords none.
        relations: how (`vlm.datasets.table.RELATIONS`).
    """
    row_of = {question: row for row, question in enumerate(ids)}
    found = [
        (row_of[pair], row, relation == CONTRADICTION)
        for row, (pair, relation) in enumerate(zip(pairs, relations, strict=True))
        if pair in row_of
    ]
    first, second, opposite = zip(*found, strict=True) if found else ((), (), ())
    return Pairs(
        torch.tensor(first, dtype=torch.long),
        torch.tensor(second, dtype=torch.long),
        torch.tensor(opposite, dtype=torch.bool),
    )
