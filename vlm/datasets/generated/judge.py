"""Whether a drawn picture shows what a sentence asks for, by the picture's pixels alone.

It reads any picture and shares nothing with the code that draws: things are connected pixels that
are not background, their colour is that of their middle, and their shape follows from how much of
their box they fill.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import NamedTuple

import numpy as np

PALETTE = {
    "red": (230, 25, 25), "orange": (255, 130, 0), "yellow": (255, 235, 0), "green": (0, 170, 0),
    "cyan": (0, 225, 225), "blue": (40, 60, 255), "pink": (255, 0, 220), "brown": (130, 80, 30),
    "gray": (130, 130, 130), "white": (255, 255, 255),
}  # fmt: skip
"""What the colours' names mean. A thing has the name of the nearest one."""
BACKGROUND = 60
"""A pixel of which no channel is brighter is background."""
SPECK, SIDES = 8, range(8, 15)
"""Connected pixels that are fewer count as nothing; a thing's box has such sides, in pixels."""
FILLED = {"square": (0.9, 1.01), "circle": (0.68, 0.9), "triangle": (0.35, 0.68)}
"""Share of its box that a shape fills: 1, pi / 4 and 1 / 2 of the exact ones."""
FURTHER = 3
"""Pixels between two centres from which on "left" and "above" are true, as in Scenes' questions."""
_THING = re.compile(r"\ban? (\w+) (\w+)")
_RELATION = re.compile(r"left of|right of|above|below")


class Seen(NamedTuple):
    """A thing in a picture: its colour, its shape, and its centre of mass in pixels."""

    color: str
    shape: str
    x: float
    y: float


def seen(pixels: np.ndarray) -> list[Seen]:
    """The things in a picture (H, W, 3) uint8; "?" is the shape of one that has none of ours."""
    found = []
    for rows, columns in _connected(pixels.max(2) > BACKGROUND):
        if len(rows) >= SPECK:
            away = abs(rows - rows.mean()) + abs(columns - columns.mean())
            inner = away <= max(3, away.min())  # a ring has nothing in its middle
            color = np.median(pixels[rows[inner], columns[inner]].astype(int), 0)
            name = min(PALETTE, key=lambda name: float(np.square(color - PALETTE[name]).sum()))
            found.append(Seen(name, _shape(rows, columns), columns.mean(), rows.mean()))
    return found


def _connected(there: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows and columns of each group of pixels that touch, also by a corner."""
    left, groups = set(zip(*map(np.ndarray.tolist, np.nonzero(there)), strict=True)), []
    while left:
        group = [left.pop()]
        for y, x in group:  # which grows meanwhile
            near = {(y + down, x + right) for down in (-1, 0, 1) for right in (-1, 0, 1)} & left
            left -= near
            group += near
        rows, columns = np.array(group).T
        groups.append((rows, columns))
    return groups


def _shape(rows: np.ndarray, columns: np.ndarray) -> str:
    height, width = int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1
    if height not in SIDES or width not in SIDES:
        return "?"
    filled = len(rows) / (height * width)
    return next((name for name, (low, high) in FILLED.items() if low <= filled < high), "?")


def shows(pixels: np.ndarray, sentence: str) -> bool:
    """Whether a picture (H, W, 3) uint8 has the things of a sentence, nothing else, and the first
    where the sentence says.

    >>> picture = np.zeros((64, 64, 3), np.uint8)
    >>> picture[20:31, 8:19], picture[24:35, 40:51] = (230, 25, 25), (40, 60, 255)
    >>> shows(picture, "Draw a red square left of a blue square.")
    True
    >>> shows(picture, "Draw a red square right of a blue square.")
    False
    """
    asked, relation = _THING.findall(sentence), _RELATION.search(sentence)
    found = seen(pixels)
    order = [next((s for s in found if (s.color, s.shape) == kind), None) for kind in asked]
    if len(found) != len(asked) or len({*order}) != len(asked) or None in order:
        return False
    return relation is None or all(
        _lies(relation[0], one, other) for one, other in pairwise(order) if one and other
    )


def _lies(relation: str, one: Seen, other: Seen) -> bool:
    right, down = one.x - other.x, one.y - other.y
    away = {"left of": -right, "right of": right, "above": -down, "below": down}[relation]
    return away >= FURTHER
