"""Scenes: simple pictures whose questions take one ability each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import ClassVar, Literal

import pyarrow as pa
import pyarrow.compute as pc

from vlm.core.validation import check_positive, did_you_mean, nearest
from vlm.datasets.base import Split
from vlm.datasets.generated.base import GeneratedDataset, Picture
from vlm.datasets.generated.drawing import Draws, Thing, described, draw, places
from vlm.datasets.generated.questions import RADII, SHAPES, TEMPLATES, Scene, asked
from vlm.datasets.vocabulary import VocabularyRules

SIZE = 64
LONGEST = 10
COLORS = {
    "red": (230, 25, 25), "orange": (255, 130, 0), "yellow": (255, 235, 0), "green": (0, 170, 0),
    "cyan": (0, 225, 225), "blue": (40, 60, 255), "pink": (255, 0, 220), "brown": (130, 80, 30),
    "gray": (130, 130, 130), "white": (255, 255, 255),
}  # fmt: skip
Shapes = dict[str, tuple[str, ...]]
"""Of each colour."""
ANY: Shapes = dict.fromkeys(COLORS, SHAPES)
HELD_OUT: Shapes = {color: (SHAPES[n % len(SHAPES)],) for n, color in enumerate(COLORS)}
KEPT: Shapes = {
    color: tuple(shape for shape in SHAPES if shape not in HELD_OUT[color]) for color in COLORS
}


ABILITIES = tuple(dict.fromkeys(template.ability for template in TEMPLATES))


class Scenes(GeneratedDataset):
    """Scenes of objects with different colours, and questions that take one ability each.

    Abilities (`answer_type`, the report's lines): attribute, exist, count, compare, position, left
    of, above, closest, furthest, same as, logic, two-hop; 30 questions a picture. Given the picture
    alone or the words alone, each of a question's possible answers, which are its `choices`, is as
    likely: the floors are 25 or 50 % of attribute, 33 % of count and same as, 50 % of the others.
    In `compare`, `left of`, `above`, `closest`, `furthest` and `logic` the answer depends on the
    order of the words, so a bag of words stays near these. Pictures are 64 x 64, objects small or
    large circles, squares, triangles and crosses of ten colours. Validation has a ninth of the
    training pictures, test a quarter. A picture's `.npz` holds each object's box and colour, shape,
    size and place.
    No size is checked: what is generated has a digest.

    Args:
        root: folder to generate into; None for one of its own in the cache (`VLM_CACHE`).
        part: which test. "longer" has pictures of ten objects; in "compositional", training and
            validation show each colour with three of the four shapes, and test asks about the
            fourth; there the words alone are worth 33 % of the questions about a shape.
        objects: objects of a picture, 7 to 10. With fewer, not every answer would be possible.
        scenes: training pictures.
        validation_share: not used, for validation is generated.
        vocabulary: which words and answers enter the vocabularies.
        seed: seed of pictures and questions; digests are published for 0.
        abilities: which abilities to ask about; None for all. The images are the same.

    Example:
        >>> data = vlm.datasets.Scenes(scenes=36)
        >>> data.read("test").num_rows, data.read("test")["answers"][2].as_py()
        (270, ['square'])
    """

    revision: ClassVar = 2

    def __init__(
        self,
        root: Path | None = None,
        part: Literal["standard", "compositional", "longer"] = "standard",
        objects: int = 7,
        scenes: int = 3600,
        validation_share: float = 0.1,
        vocabulary: VocabularyRules = VocabularyRules(),
        seed: int = 0,
        abilities: Sequence[str] | None = None,
    ) -> None:
        super().__init__(root, validation_share, vocabulary, seed)
        check_positive(scenes=scenes)
        if not 7 <= objects <= LONGEST:
            raise ValueError(f"objects: got {objects}; expected 7 to {LONGEST}.")
        if abilities is not None and not abilities:
            raise ValueError("abilities: got none; expected some, or null for all.")
        for ability in abilities or ():
            if ability not in ABILITIES:
                raise ValueError(
                    f"abilities: got {ability!r}; expected some of {', '.join(ABILITIES)}."
                    f"{did_you_mean(nearest(ability, ABILITIES))}"
                )
        self.part, self.objects, self.scenes = part, objects, scenes
        self.abilities = None if abilities is None else list(abilities)

    def read(self, split: Split) -> pa.Table | None:
        table = super().read(split)
        if table is None or self.abilities is None:
            return table
        return table.filter(pc.field("answer_type").isin(self.abilities))

    def pictures(self, split: Split) -> Iterator[Picture] | None:
        parts = {"train": 1, "validation": 9, "test": 4}
        if split not in parts:
            return None
        tested = self.part if split == "test" else None
        objects = LONGEST if tested == "longer" else self.objects
        first = others = named = ANY
        if self.part == "compositional":
            # In test the first object of each shape is of a pair that training never shows.
            first = named = HELD_OUT if tested else KEPT
            others = KEPT
        found = _pictures(f"{self.edition} {split}", objects, first, others, named)
        return islice(found, -(-self.scenes // parts[split]))


def _pictures(
    name: str, objects: int, first: Shapes, others: Shapes, named: Shapes
) -> Iterator[Picture]:
    draws = Draws(name)
    streams = {each.ability: Draws(f"{name} {each.ability}") for each in TEMPLATES}
    while True:
        things = _things(draws, objects, first, others)
        rows = things and asked(Scene(things, named, SIZE), streams)
        if things and rows:
            known = described(things, [*COLORS], SHAPES, [*RADII.values()], SIZE)
            yield Picture(draw(things, COLORS, SIZE), rows, known)


def _things(draws: Draws, objects: int, first: Shapes, others: Shapes) -> list[Thing] | None:
    """Objects of which one shape is there once, one twice, one three times, and one the rest; None
    if no colours are left for these shapes."""
    counts = draws.some((1, 2, 3, objects - 6), len(SHAPES))
    several = [shape for shape, count in zip(SHAPES, counts, strict=True) for _ in range(count)]
    shapes = draws.some(several, objects)
    left, colors = draws.some(list(COLORS), len(COLORS)), list[str]()
    for place, shape in enumerate(shapes):
        possible = others if shape in shapes[:place] else first
        fitting = [color for color in left if shape in possible[color]]
        if not fitting:
            return None
        colors.append(fitting[0])
        left.remove(fitting[0])
    few, many = draws.some((objects // 2, objects - objects // 2), 2)
    radii = draws.some([RADII["small"]] * few + [RADII["large"]] * many, objects)
    centres = places(draws, radii, SIZE)
    return [
        Thing(color, shape, radius, x, y)
        for color, shape, radius, (x, y) in zip(colors, shapes, radii, centres, strict=True)
    ]
