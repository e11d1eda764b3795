"""Shapes and chance in whole numbers alone, so that each pixel is the same on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple, TypeVar

import numpy as np

Item = TypeVar("Item")
DIRECTIONS = ((1, 0), (0, 1), (1, 1), (1, -1))
"""Of strokes: steps to the right, and down."""


class Draws:
    """A stream of random choices, a pure function of its name.

    It reads PCG64's raw numbers, which numpy keeps the same in all versions; what `Generator` makes
    of them may change (https://numpy.org/neps/nep-0019-rng-policy.html).
    """

    def __init__(self, name: str) -> None:
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest())
        self._raw = np.random.PCG64(seed).random_raw

    def below(self, count: int) -> int:
        """A whole number in [0, count), each as likely."""
        return int(self._raw()) % count  # of 2 ** 64 numbers: the excess of the first is nothing

    def one(self, items: Sequence[Item]) -> Item:
        return items[self.below(len(items))]

    def some(self, items: Sequence[Item], count: int) -> list[Item]:
        """So many different ones, in random order."""
        left = list(items)
        return [left.pop(self.below(len(left))) for _ in range(count)]


@cache
def stamp(shape: str, radius: int) -> np.ndarray:
    """Where a shape is: (2 radius + 1, 2 radius + 1) bool. Every shape touches all four sides."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return {
        "circle": x * x + y * y <= radius * (radius + 1),
        "square": abs(x) <= radius,
        "triangle": 2 * abs(x) <= y + radius,
    }[shape]


class Thing(NamedTuple):
    """What is drawn.

    Attributes:
        color: its colour's name.
        shape: its name (`stamp`).
        radius: half its side, in pixels.
        x: column of its centre.
        y: row of its centre.
    """

    color: str
    shape: str
    radius: int
    x: int
    y: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 in pixels."""
        r = self.radius
        return self.x - r, self.y - r, self.x + r + 1, self.y + r + 1

    def squared_distance(self, other: Thing) -> int:
        return (self.x - other.x) ** 2 + (self.y - other.y) ** 2


def places(draws: Draws, count: int, radius: int, size: int) -> list[tuple[int, int]]:
    """Centres whose squares neither overlap nor reach beyond a picture of size x size pixels."""
    while True:
        found: list[tuple[int, int]] = []
        for _ in range(count):
            for _ in range(50):
                x, y = (radius + draws.below(size - 2 * radius) for _ in "xy")
                if all(max(abs(x - u), abs(y - v)) > 2 * radius for u, v in found):
                    found.append((x, y))
                    break
        if len(found) == count:
            return found


def draw(
    things: Sequence[Thing],
    colors: Mapping[str, tuple[int, int, int]],
    size: int,
    background: int = 0,
) -> np.ndarray:
    """A picture (size, size, 3) uint8."""
    pixels = np.full((size, size, 3), background, np.uint8)
    for thing in things:
        x0, y0, x1, y1 = thing.box
        pixels[y0:y1, x0:x1][stamp(thing.shape, thing.radius)] = colors[thing.color]
    return pixels


def scatter(
    pixels: np.ndarray,
    draws: Draws,
    count: int,
    things: Sequence[Thing],
    colors: Sequence[tuple[int, int, int]],
) -> None:
    """Draw strokes of three to five pixels, none of which touches a thing."""
    height, width = pixels.shape[:2]
    free = np.ones((height, width), bool)
    for thing in things:
        x0, y0, x1, y1 = thing.box
        free[max(y0 - 1, 0) : y1 + 1, max(x0 - 1, 0) : x1 + 1] = False
    for _ in range(count):
        stroke: list[tuple[int, int]] = []
        while not stroke:
            x, y, (across, down) = draws.below(width), draws.below(height), draws.one(DIRECTIONS)
            points = [(y + n * down, x + n * across) for n in range(3 + draws.below(3))]
            if all(0 <= v < height and 0 <= u < width and free[v, u] for v, u in points):
                stroke = points
        color = draws.one(colors)
        for v, u in stroke:
            pixels[v, u] = color


def described(
    things: Sequence[Thing],
    colors: Sequence[str],
    shapes: Sequence[str],
    size: int,
) -> tuple[list[list[float]], list[tuple[int, int, int, int]]]:
    """Features and boxes: the colour and shape of each thing, and its place in [0, 1]."""
    kinds = (("color", colors), ("shape", shapes))
    features = [
        [
            *(float(getattr(thing, name) == value) for name, values in kinds for value in values),
            thing.x / (size - 1),
            thing.y / (size - 1),
        ]
        for thing in things
    ]
    return features, [thing.box for thing in things]
