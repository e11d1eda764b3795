"""Whether a head that picks from choices can learn from questions, and be scored on them."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from vlm.datasets.errors import DataError
from vlm.datasets.table import source_of, stream


def choice_mistakes(table: pa.Table) -> Iterator[tuple[int, str, str]]:
    """The row of each question that cannot be used, the kind of its mistake, and a message.

    What is wrong with a list of choices by itself is found where a table is made.
    """
    for row, (choices, answers) in enumerate(stream(table, "choices", "answers")):
        if choices is None:
            yield row, "no choices", "there are no choices, and the model's head picks from them."
        elif answers is not None and not set(choices) & set(answers):
            yield (
                row,
                "answer not among the choices",
                f"got the answer {answers[0]!r} and the choices {', '.join(map(repr, choices))}; "
                f"wanted the answer among them, to the letter.",
            )


def check_choices(table: pa.Table, split: str) -> None:
    """Check that every question has choices, with its answer among them.

    Raises:
        DataError: naming the first question that has not, and how many there are.
    """
    found = choice_mistakes(table)
    first = next(found, None)
    if first is not None:
        row, _, message = first
        place, number = (table[name][row].as_py() for name in ("place", "id"))
        others = sum(1 for _ in found)
        more = f" So it is with {others:,} more of {len(table):,}." if others else ""
        place = place or source_of(table) or split
        raise DataError(
            f"{place}, column 'choices' (id {number!r}): {message} Correct the data, or take "
            f"another head, such as vlm.heads.Classification.{more}"
        )
