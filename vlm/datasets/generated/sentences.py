"""Sentences that ask for a picture of one or two things, and a picture that shows what one says."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from vlm.datasets.base import Split
from vlm.datasets.generated.drawing import Draws, Thing
from vlm.datasets.generated.questions import SHAPES

DRAW = "draw"
"""`answer_type` of the questions that ask for a picture."""
RELATIONS = {"left of": ("x", 1), "right of": ("x", -1), "above": ("y", 1), "below": ("y", -1)}
"""The axis that each is about, and the sign of the second thing's place less the first one's."""
STEP, APART, FURTHER = 4, 16, 8
"""In pixels: places are multiples of the first, and the second is the least between two things, so
that few codes of 16 x 16 pixels describe all pictures; the third is the least between two centres
on the relation's axis."""
Kind = tuple[str, str]
"""Colour and shape."""


class Sentence(NamedTuple):
    """What is to be drawn.

    Attributes:
        kinds: one thing, or two of different colours.
        relation: where the first lies, seen from the second; None for one thing.
    """

    kinds: tuple[Kind, ...]
    relation: str | None = None

    @property
    def text(self) -> str:
        """
        >>> Sentence((("red", "circle"), ("orange", "square")), "left of").text
        'Draw a red circle left of an orange square.'
        """
        named = [f"a{'n' * (color[0] in 'aeiou')} {color} {shape}" for color, shape in self.kinds]
        return f"Draw {f' {self.relation} '.join(named)}."

    @property
    def split(self) -> Split:
        """The only split that the sentence is in: eight in ten are in training. One that says the
        same, such as "a right of b" beside "b left of a", is in the same split."""
        axis, sign = RELATIONS.get(self.relation or "", ("", 1))
        kinds = self.kinds[::sign]
        drawn = Draws(f"sentence {axis} {kinds}").below(10)
        return "validation" if drawn == 0 else "test" if drawn == 1 else "train"


def sentence(draws: Draws, colors: Sequence[str], split: Split) -> Sentence:
    """A sentence of a split: one in five about one thing, the others about two."""
    while True:
        count = 2 if draws.below(5) else 1
        kinds = tuple((color, draws.one(SHAPES)) for color in draws.some(colors, count))
        found = Sentence(kinds, draws.one([*RELATIONS]) if count == 2 else None)
        if found.split == split:
            return found


def things_of(draws: Draws, asked: Sentence, radius: int, size: int) -> list[Thing]:
    """The things of a sentence, at places that make it true, each such as likely."""
    centres = range(-(-radius // STEP) * STEP, size - radius, STEP)
    while True:
        made = [
            Thing(*kind, radius, draws.one(centres), draws.one(centres)) for kind in asked.kinds
        ]
        if all(_fit(one, other, asked.relation) for one, other in pairwise(made)):
            return made


def _fit(one: Thing, other: Thing, relation: str | None) -> bool:
    axis, sign = RELATIONS[relation or "above"]
    away = max(abs(one.x - other.x), abs(one.y - other.y)) - 2 * one.radius - 1
    return away >= APART and sign * (getattr(other, axis) - getattr(one, axis)) >= FURTHER


def row(asked: Sentence, picture: str) -> dict[str, Any]:
    """A row of a question table; `picture` is the text of a picture that shows the sentence."""
    form = f" {asked.relation} ".join(["a {} {}"] * len(asked.kinds))
    form = f"Draw {form}."
    return {"question": asked.text, "answer": picture, "answer_type": DRAW, "question_type": form}
