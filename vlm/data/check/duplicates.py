"""Answers that differ only for a program, and questions that differ only for a person."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator

import numpy as np
import pyarrow as pa
import regex

from vlm.core.terminal import track
from vlm.datasets.readers.annotations import merged
from vlm.datasets.table import stream

_UNSEEN = regex.compile(r"\p{Cf}")


def alike_answers(answers: Counter[str]) -> Iterator[list[tuple[str, int]]]:
    """Groups of at least two answers that differ only in case, a final full stop or invisible
    characters, with their counts, the most frequent first."""
    groups: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
    for answer, count in answers.most_common():
        groups[_UNSEEN.sub("", merged(answer))].append((answer, count))
    yield from (group for group in groups.values() if len(group) > 1)


def confused_questions(
    table: pa.Table, read: Callable[[str], Hashable]
) -> Iterator[tuple[int, int]]:
    """Pairs of rows on one image with different answers to questions that a model reads as one.

    Memory grows by 16 bytes for each row. `read` maps a question to what the model reads.
    """
    pairs = stream(table, "image", "question")
    hashed = (
        hash((image, read(q))) for image, q in track(pairs, "Comparing questions", len(table))
    )
    seen = np.fromiter(hashed, np.int64, len(table))
    ordered = np.sort(seen)
    rows = np.flatnonzero(np.isin(seen, ordered[1:][ordered[1:] == ordered[:-1]]))
    chosen = table.select(["question", "answers"]).take(rows)
    hashes = np.array(
        [(hash(q), hash(tuple(sorted(a or ())))) for q, a in stream(chosen, "question", "answers")]
    ).reshape(-1, 2)
    order = np.lexsort((hashes[:, 1], hashes[:, 0], seen[rows]))
    first, second = order[:-1], order[1:]
    differ = (hashes[first] != hashes[second]).all(1) & (seen[rows[first]] == seen[rows[second]])
    for one, other in zip(first[differ], second[differ], strict=True):
        yield int(rows[one]), int(rows[other])
