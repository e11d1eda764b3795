"""Typing mistakes: a letter that is swapped, missed by a key, or left out."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_NEIGHBOURS = {
    key: [row[i] for i in (at - 1, at + 1) if 0 <= i < len(row)]
    for row in _ROWS
    for at, key in enumerate(row)
}
Typo = Callable[[str, int, random.Random], str]
"""(word, place of a letter in it, random numbers) -> the word with a mistake there."""


def _swapped(word: str, at: int, rng: random.Random) -> str:
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


def _neighbouring(word: str, at: int, rng: random.Random) -> str:
    near = _NEIGHBOURS.get(word[at].lower(), [word[at]])
    return word[:at] + rng.choice(near) + word[at + 1 :]


def _left_out(word: str, at: int, rng: random.Random) -> str:
    return word[:at] + word[at + 1 :]


TYPOS: dict[str, Typo] = {
    "letters swapped": _swapped,
    "neighbouring key": _neighbouring,
    "letter left out": _left_out,
}


def with_typo(question: str, typo: Typo, rng: random.Random) -> str:
    """A question with one mistake inside a word of four letters or more, if it has one."""
    words = list(re.finditer(r"[a-zA-Z]{4,}", question))
    if not words:
        return question
    word = rng.choice(words)
    at = rng.randrange(1, len(word[0]) - 2)  # not the first letter, nor the last
    return question[: word.start()] + typo(word[0], at, rng) + question[word.end() :]
