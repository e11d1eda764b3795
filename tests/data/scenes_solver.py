"""Answers to questions about Scenes from the pixels alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from vlm.datasets.generated.scenes import COLORS

NAMES = {rgb: name for name, rgb in COLORS.items()}
COLOR = "(" + "|".join(COLORS) + ")"
SHAPE = "(circle|square|triangle)"
PARTS = ("standard", "compositional", "longer", "priors", "absent")


class Seen(NamedTuple):
    color: str
    shape: str
    centre: np.ndarray


def look(path: str) -> dict[str, Seen]:
    """The objects of a picture, by colour, from its pixels."""
    pixels = np.asarray(Image.open(path))
    seen = {}
    for rgb, name in NAMES.items():
        # Strokes are smaller than the smallest object, and touch none.
        labels, _ = ndimage.label((pixels == rgb).all(2), np.ones((3, 3)))
        (sizes,) = (np.bincount(labels.ravel(), minlength=2)[1:],)
        if sizes.max() < 40:
            continue
        rows, columns = np.nonzero(labels == 1 + sizes.argmax())
        corner = {(rows.min(), columns.min()), (rows.max(), columns.min())}
        filled = corner & set(zip(rows, columns, strict=True))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert height == width, "objects overlap"
        shape = {2: "square", 1: "triangle", 0: "circle"}[len(filled)]
        centre = np.array([columns.min() + columns.max(), rows.min() + rows.max()]) / 2
        seen[name] = Seen(name, shape, centre)
    return seen


def solve(question: str, seen: dict[str, Seen]) -> str:
    """The answer, by a rule for each form of question."""

    def truth(is_so: Any) -> str:
        return ["no", "yes"][bool(is_so)]

    def number(plural: str) -> int:
        return sum(f"{each.shape}s" == plural for each in seen.values())

    def by_distance(color: str) -> list[str]:
        away = {
            name: np.linalg.norm(each.centre - seen[color].centre) for name, each in seen.items()
        }
        return sorted(seen.keys() - {color}, key=lambda name: away[name])

    def is_shape(color: str, shape: str) -> bool:
        return seen[color].shape == shape

    def before(axis: int, one: str, other: str) -> bool:
        return seen[one].centre[axis] < seen[other].centre[axis]

    the_color = f"the {COLOR} object"
    both = f"{the_color} (?:is )?a {SHAPE} and {the_color} (?:is )?a {SHAPE}"
    either = both.replace(" and ", " or ")
    neither = f"Is {the_color} not a {SHAPE} and {the_color} not a {SHAPE}"
    rules: dict[str, Callable[..., str]] = {
        f"What shape is {the_color}|Which shape does {the_color} have": lambda *c: (
            seen[c[0] or c[1]].shape
        ),
        f"(?:Is there|Can you see) a {SHAPE} that is {COLOR}": lambda s, c: truth(
            c in seen and is_shape(c, s)
        ),
        f"Is {the_color} a {SHAPE}": lambda c, s: truth(is_shape(c, s)),
        r"(?:How many|What is the number of) (\w+?)(?: are there)?": lambda s: str(number(s)),
        r"Are there more (\w+) than (\w+)": lambda s, t: truth(number(s) > number(t)),
        r"Is the number of (\w+) greater than the number of (\w+)": lambda s, t: truth(
            number(s) > number(t)
        ),
        r"Are there fewer (\w+) than (\w+)": lambda s, t: truth(number(s) < number(t)),
        f"(?:Is|On which side is) {the_color}(?: on the left or on the right|, left or right)": (
            lambda c: "left" if seen[c].centre[0] < 31.5 else "right"
        ),
        f"(?:Is|In which half is) {the_color}(?: at the top or at the bottom|, top or bottom)": (
            lambda c: "top" if seen[c].centre[1] < 31.5 else "bottom"
        ),
        f"(?:Is|Does) {the_color} (?:lie to the )?left of {the_color}": lambda c, d: truth(
            before(0, c, d)
        ),
        f"Is {the_color} right of {the_color}": lambda c, d: truth(before(0, d, c)),
        f"(?:Is|Does) {the_color} (?:above|lie higher than) {the_color}": lambda c, d: truth(
            before(1, c, d)
        ),
        f"Is {the_color} below {the_color}": lambda c, d: truth(before(1, d, c)),
        f"Is {the_color} the (?:closest|nearest) to {the_color}": lambda c, d: truth(
            by_distance(d)[0] == c
        ),
        f"Is {the_color} the (?:furthest|most distant) from {the_color}": lambda c, d: truth(
            by_distance(d)[-1] == c
        ),
        f"Is (no|another) object closer to {the_color} than {the_color}": lambda which, d, c: truth(
            (by_distance(d)[0] == c) == (which == "no")
        ),
        f"Is (no|another) object further from {the_color} than {the_color}": lambda which, d, c: (
            truth((by_distance(d)[-1] == c) == (which == "no"))
        ),
        f"How many other objects (?:have the shape of|are shaped like) {the_color}": lambda c: str(
            [each.shape for each in seen.values()].count(seen[c].shape) - 1
        ),
        f"(?:Is|Is it true that) {both}": lambda c, s, d, t: truth(
            is_shape(c, s) and is_shape(d, t)
        ),
        f"(?:Is|Is it true that) {either}": lambda c, s, d, t: truth(
            is_shape(c, s) or is_shape(d, t)
        ),
        neither: lambda c, s, d, t: truth(not is_shape(c, s) and not is_shape(d, t)),
        neither.replace(" and ", " or "): lambda c, s, d, t: truth(
            not is_shape(c, s) or not is_shape(d, t)
        ),
        f"Is {the_color} (?:not|something other than) a {SHAPE}": lambda c, s: truth(
            not is_shape(c, s)
        ),
        f"Is it false that {the_color} is a {SHAPE}": lambda c, s: truth(not is_shape(c, s)),
        f"What shape is the object closest to {the_color}": lambda c: seen[by_distance(c)[0]].shape,
        f"Which shape does the object nearest to {the_color} have": lambda c: (
            seen[by_distance(c)[0]].shape
        ),
    }
    if any(color not in seen for color in re.findall(the_color, question)):
        return "not there"
    (answer,) = (
        rule(*found.groups())
        for pattern, rule in rules.items()
        if (found := re.fullmatch(f"(?:{pattern})" + r"\?", question))
    )
    return answer
