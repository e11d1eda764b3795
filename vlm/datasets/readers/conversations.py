"""Conversations about images, as LLaVA's training files have them, as questions with answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from vlm.datasets.errors import DataError, report
from vlm.datasets.readers.records import Record

COLUMN = "conversations"
IMAGE = "<image>"
"""Stands in a turn where the image belongs."""
SPEAKERS = ("human", "gpt")
KIND = "malformed conversation"


def from_conversations(
    records: Iterable[Record], dialogue: bool = False, names: Mapping[str, str] | None = None
) -> Iterator[Record]:
    """Conversations (Liu et al. 2023, arXiv 2304.08485) as rows with a question and an answer;
    other rows as they are.

    A conversation is `{"id": ..., "image": "a.jpg", "conversations": [{"from": "human", "value":
    "<image>\\nWhat is this?"}, {"from": "gpt", "value": "a cat"}, ...]}`. Its first question can be
    asked by itself. Later ones may need what was said before ("and its color?"). Of several
    conversations with one id, the second has the id `ID#2`, and so on.

    Args:
        records: rows of a file, which are conversations if the first has a column of that name.
        dialogue: read every turn and not only the first: the question is then all that was said
            before it, a line each, and the turn itself.
        names: the file's names of the columns `id` and `image`, where they have others. An image
            may be a list of several.

    Raises:
        DataError: a turn that is not as above; names file, record and turn.
    """
    records, names = iter(records), names or {"id": "id", "image": "image"}
    first = next(records, None)
    if first is None:
        return
    records = chain([first], records)
    if COLUMN not in first.columns:
        yield from records
        return
    number, records_of = 0, Counter[Any]()
    for record in records:
        try:
            turns = _turns(record, names["image"])
        except DataError as error:
            report(KIND, str(error))
            continue
        key = record.values.get(names["id"])
        key = record.number if key is None else key
        records_of[key] += 1  # LLaVA's files name an image's conversations by the image
        key = f"{key}#{records_of[key]}" if records_of[key] > 1 else key
        for turn in range(0, len(turns) if dialogue else 2, 2):
            number += 1
            values = {
                "image": None,
                **record.values,  # the image, under the name that the file has for it
                names["id"]: f"{key}/{turn // 2 + 1}" if dialogue else key,
                "question": "\n".join(turns[: turn + 1]),
                "answer": turns[turn + 1],
            }
            del values[COLUMN]
            place = f"{record.place}, {COLUMN}[{turn}]"
            yield Record(number, place, values.keys(), values)


def _turns(record: Record, column: str) -> list[str]:
    """The texts of a conversation, of human and gpt in turn, without the images' tokens."""
    given = record.values.get(COLUMN)
    if not isinstance(given, list) or len(given) < 2 or len(given) % 2:
        found = f"{len(given)} turns" if isinstance(given, list) else repr(given)
        raise DataError(
            f"{record.place}: {COLUMN}: got {found:.80}; expected an even number of turns, each a "
            f"question of human and the answer of gpt."
        )
    turns: list[str] = []
    images = 0
    for number, turn in enumerate(given):
        speaker, text = SPEAKERS[number % 2], _value(turn, "value")
        if _value(turn, "from") != speaker or not isinstance(text, str):
            raise DataError(
                f"{record.place}: {COLUMN}[{number}]: got {turn!r:.80}; expected "
                f"{{'from': {speaker!r}, 'value': a text}}."
            )
        images += text.count(IMAGE)
        turns.append(text.replace(IMAGE, "").strip())
        if not turns[-1]:
            raise DataError(f"{record.place}: {COLUMN}[{number}]: got {text!r}; expected a text.")
    listed = record.values.get(column)
    most = max(1, len(listed)) if isinstance(listed, list) else 1
    if images > most:
        raise DataError(
            f"{record.place}: {COLUMN}: got {images} of {IMAGE}; expected {most} at most, as many "
            f"as the row has images."
        )
    return turns


def _value(turn: Any, name: str) -> Any:
    return turn.get(name) if isinstance(turn, dict) else None
