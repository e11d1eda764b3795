"""Questions as an Arrow table: one row a question, whatever the data set."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("image", pa.string(), nullable=False),  # a path, or a key of the image store
        pa.field("question", pa.string(), nullable=False),
        pa.field("answers", pa.list_(pa.string())),  # one per annotator; null where unknown
        pa.field("answer_type", pa.string()),
        pa.field("question_type", pa.string()),
        pa.field("choices", pa.list_(pa.string())),  # of a multiple-choice question
        pa.field("group", pa.string()),  # images that belong together: a patient, a scene
    ]
)
"""Columns of a question table. Ids stay strings."""


class DataError(ValueError):
    """Questions that cannot be used; the message names the file and the row."""


def question_table(rows: Iterable[dict[str, Any]], source: str) -> pa.Table:
    """Make a checked table.

    Args:
        rows: one dict per question with the columns of `SCHEMA`; id, image and question must be
            there.
        source: file or data set, for the errors.

    Raises:
        DataError: an empty question, no id or image, answers that are none or no texts, ids
            that repeat.
    """
    rows = list(rows)
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        where = f"{source}, question {number} (id {row.get('id')!r})"
        for name in ("id", "image"):
            if not row.get(name):
                raise DataError(f"{where}: {name} is missing or empty.")
        if not isinstance(row.get("question"), str) or not row["question"].strip():
            raise DataError(
                f"{where}: got the question {row.get('question')!r}; wanted some text. Correct or "
                f"remove this row."
            )
        if row.get("answers") is not None and not row["answers"]:
            raise DataError(f"{where}: the list of answers is empty; leave it out if unknown.")
        if not _are_texts(row.get("answers")):
            raise DataError(
                f"{where}: got the answers {row['answers']!r}; wanted a list of texts, one per "
                f"annotator."
            )
        if row["id"] in seen:
            raise DataError(f"{where}: the id stands at question {seen[row['id']]} already.")
        seen[row["id"]] = number
    columns = {name: [row.get(name) for row in rows] for name in SCHEMA.names}
    return pa.table(columns, schema=SCHEMA)


def _are_texts(answers: Any) -> bool:
    if answers is None:
        return True
    return not isinstance(answers, str) and all(isinstance(answer, str) for answer in answers)


def image_groups(table: pa.Table) -> np.ndarray:
    """A number (Q,) for each question, equal for questions about one image."""
    return table["image"].combine_chunks().dictionary_encode().indices.to_numpy()


def split_groups(table: pa.Table) -> np.ndarray:
    """A number (Q,) for each question, equal for questions that no split may tear apart."""
    # A group's name and an image's never mix: they are told apart by the first character.
    group = pc.binary_join_element_wise("g", table["group"], "")
    image = pc.binary_join_element_wise("i", table["image"], "")
    return pc.coalesce(group, image).combine_chunks().dictionary_encode().indices.to_numpy()


def split_by_image(table: pa.Table, share: float, seed: int) -> tuple[pa.Table, pa.Table]:
    """Cut a table in two by image: no picture is in both parts.

    Images of one group (`group`: a patient, a scene, a video) stay together too.

    Args:
        table: questions.
        share: of the images or groups that go to the second part, in (0, 1).
        seed: of the choice.

    Raises:
        ValueError: a share out of range.
        DataError: fewer than two images or groups.
    """
    if not 0 < share < 1:
        raise ValueError(f"validation_share: got {share}; wanted a share between 0 and 1.")
    groups = split_groups(table)
    count = int(groups.max(initial=-1)) + 1
    if count < 2:
        raise DataError(
            f"The questions are about {count} different images or groups; wanted two at least, to "
            f"hold one out for validation."
        )
    chosen = np.zeros(count, dtype=bool)
    order = np.random.default_rng(seed).permutation(count)
    chosen[order[: min(max(1, round(share * count)), count - 1)]] = True
    held_out = chosen[groups]
    return table.filter(pa.array(~held_out)), table.filter(pa.array(held_out))
