"""Find the questions whose values are NaN or infinite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vlm.core.compat import tree_leaves
from vlm.core.validation import counted

SHOWN = 10
"""Questions that a message names."""


class NotFiniteError(RuntimeError):
    """A loss, a gradient or an answer that is NaN or infinite."""


def check_finite(output: Any, ids: Sequence[str]) -> None:
    """Check a head's output (tensors with Q in front) for Q questions by their ids.

    Raises:
        NotFiniteError: names the questions.
    """
    check_rows(finite_rows(output, len(ids)), ids)


def check_rows(good: Tensor, ids: Sequence[str]) -> None:
    """As `check_finite`, with what `finite_rows` found."""
    if bad := _named_false(good, ids):
        raise NotFiniteError(
            f"The model's output is not finite for {named(bad)}; it has no answer to score. "
            f"Look at these questions and their images, and take an earlier checkpoint."
        )


def not_finite(output: Any, ids: Sequence[str]) -> list[str]:
    """The ids of the questions whose output has a NaN or an infinity; as `check_finite`."""
    return _named_false(finite_rows(output, len(ids)), ids)


def finite_rows(output: Any, questions: int) -> Tensor:
    """Which of the questions have no NaN and no infinity in a head's output: (Q,) bool."""
    good = [
        leaf.isfinite().flatten(1).all(1) if leaf.ndim > 1 else leaf.isfinite()
        for leaf in tree_leaves(output)
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.shape[:1] == (questions,)
    ]
    return torch.stack(good).all(0) if good else torch.ones(questions, dtype=torch.bool)


def _named_false(good: Tensor, ids: Sequence[str]) -> list[str]:
    return [question for question, is_good in zip(ids, good.tolist(), strict=True) if not is_good]


def named(ids: Sequence[str]) -> str:
    """How many questions, and the ids of the first."""
    more = f" and {len(ids) - SHOWN:,} more" if len(ids) > SHOWN else ""
    return f"{counted(len(ids), 'question')} (ids {', '.join(ids[:SHOWN])}{more})"
