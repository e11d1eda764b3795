"""Scenes: simple pictures whose questions take one ability each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc

from vlm.core.validation import check_positive, did_you_mean, nearest
from vlm.datasets.base import Split
from vlm.datasets.generated.base import GeneratedDataset, Picture
from vlm.datasets.generated.drawing import Draws, Thing, described, draw, places, scatter
from vlm.datasets.generated.questions import (
    NOT_THERE,
    SHAPES,
    TEMPLATES,
    YES_NO,
    Asked,
    Scene,
    asked,
)
from vlm.datasets.generated.wordings import LANGUAGES, rows
from vlm.datasets.presence import Boxes, Name, Presence
from vlm.datasets.vocabulary import VocabularyRules
from vlm.image.detections import read_npz

SIZE, RADIUS = 64, 5
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
EXIST = next(n for n, template in enumerate(TEMPLATES) if template.ability == "exist")
COUNTS, LONGER_COUNTS = (1, 2, 3), (2, 3, 5)
"""Numbers of objects per shape, assigned to the shapes at random."""
Part = Literal["standard", "compositional", "longer", "priors", "absent"]
COUNTED = ("count", "same as")
"""Abilities left out of the longer test, whose numbers differ from those in training."""


class Scenes(GeneratedDataset):
    """Scenes of objects with different colours, and questions that take one ability each.

    Abilities (`answer_type`, the report's lines): attribute, exist, count, compare, position, left
    of, above, closest, furthest, same as, two-hop, logic; 33 questions a picture. Given the picture
    alone or the words alone, a question's possible answers (its `choices`) are equally likely: the
    floors are 33 % on attribute, count, same as and two-hop, 50 % on the others. In `compare`,
    `left of` and `above` the order of the words decides, so a bag of words stays at the floor; in
    `closest`, `furthest` and the "or" of `logic` it decides some questions. Where few questions
    have the drawn answer, one may be repeated (4 % of all, 7 % with "priors"). Pictures are 64 x
    64, with six circles, squares and triangles of ten colours. Validation has a ninth of the
    training pictures, test a quarter. A picture's `.npz` holds each object's box and colour, shape
    and place. `question_type` is the English form of the question, whatever its language and
    wording.
    No size is checked: what is generated has a digest.

    Args:
        root: folder for the generated files; None for a folder in the cache (`VLM_CACHE`).
        part: "longer" has pictures of ten objects in test, and no questions of count and same
            as; in "compositional", training and validation show each colour with two of the three
            shapes, and test asks about the third; in training the words alone are then worth 50 %
            of the questions about a shape, and what they taught 0 % in test. In "priors" one answer
            to each form of question has a share of 80 % in training and validation, and another one
            in test (after VQA-CP, arXiv 1712.00377): the words alone are worth 80 %, and in test
            20 %, or 10 % of three answers. In "absent" the questions about "the red object" are
            also asked where no object is red, and then the answer is "not there", one more choice
            as likely as the others. Their `answer_type` is "not there".
        scenes: training pictures.
        validation_share: not used, because validation is generated.
        vocabulary: rules for the words and answers that enter the vocabularies.
        seed: seed of pictures and questions; digests are published for 0.
        abilities: which abilities to ask about; None for all. The images are the same.
        language: "en", "de" or "es", of questions and answers; the rest is the same.
        pairs: whether each question is followed by its other wordings: a paraphrase, and where
            there is one, another question with the same answer and one with the opposite answer.
            `relation` says which, and `pair` is the id of the question itself.
        clutter: strokes in each picture that are no objects, 3 to 5 pixels long and in any of the
            colours; 0 for none. Questions and objects are the same.

    Example:
        >>> data = vlm.datasets.Scenes(scenes=36)
        >>> data.read("test").num_rows, data.read("test")["answers"][2].as_py()
        (297, ['circle'])
    """

    revision: ClassVar = 3
    variations: ClassVar = {"language": "en", "pairs": False, "clutter": 0}

    def __init__(
        self,
        root: Path | None = None,
        part: Part = "standard",
        scenes: int = 3600,
        validation_share: float = 0.1,
        vocabulary: VocabularyRules = VocabularyRules(),
        seed: int = 0,
        abilities: Sequence[str] | None = None,
        language: Literal["en", "de", "es"] = "en",
        pairs: bool = False,
        clutter: int = 0,
    ) -> None:
        super().__init__(root, validation_share, vocabulary, seed)
        check_positive(scenes=scenes)
        for name, value, known in (
            ("part", part, get_args(Part)),
            ("language", language, LANGUAGES),
        ):
            if value not in known:
                raise ValueError(f"{name}: got {value!r}; expected one of {', '.join(known)}.")
        if not isinstance(clutter, int) or clutter < 0:
            raise ValueError(f"clutter: got {clutter!r}; expected a number of strokes, or 0.")
        if abilities is not None and not abilities:
            raise ValueError("abilities: got none; expected some, or null for all.")
        for ability in abilities or ():
            if ability not in ABILITIES:
                raise ValueError(
                    f"abilities: got {ability!r}; expected some of {', '.join(ABILITIES)}."
                    f"{did_you_mean(nearest(ability, ABILITIES))}"
                )
        if part == "longer" and abilities and set(abilities) <= set(COUNTED):
            raise ValueError(
                f"abilities: got {', '.join(abilities)} with part=longer, whose test asks about "
                "neither count nor same as; expected another ability too."
            )
        self.part, self.scenes, self.clutter = part, scenes, clutter
        self.language, self.pairs = LANGUAGES[language], pairs
        self.abilities = None if abilities is None else list(abilities)
        if part == "absent":
            self.unanswerable = self.language.translated(NOT_THERE)

    def read(self, split: Split) -> pa.Table | None:
        table = super().read(split)
        if table is None or self.abilities is None:
            return table
        forms = [each.text for each in TEMPLATES if each.ability in self.abilities]
        return table.filter(pc.field("question_type").isin(forms))

    def presence(self, split: Split) -> Presence:
        """ "Is there a circle that is red?", of each object."""
        words = self.language.translated
        yes, no = map(words, YES_NO)
        return Presence(self.language.wordings[EXIST].text, yes, no, self._objects)

    def _objects(self, image: str) -> dict[Name, Boxes]:
        regions = read_npz(Path(image).with_suffix(".npz"))
        words = self.language.translated
        found: dict[Name, Boxes] = {}
        for features, box in zip(regions.features, regions.boxes.tolist(), strict=True):
            colors, shapes = features[: len(COLORS)], features[len(COLORS) :][: len(SHAPES)]
            color, shape = [*COLORS][colors.argmax()], SHAPES[shapes.argmax()]
            found[words(shape), words(color)] = [tuple(box)]
        return found

    def pictures(self, split: Split) -> Iterator[Picture] | None:
        parts = {"train": 1, "validation": 9, "test": 4}
        if split not in parts:
            return None
        tested = self.part if split == "test" else None
        counts, abilities = COUNTS, ABILITIES
        if tested == "longer":
            counts, abilities = LONGER_COUNTS, tuple(x for x in ABILITIES if x not in COUNTED)
        first = others = named = ANY
        if self.part == "compositional":
            # In test the first object of each shape is of a pair that training never shows.
            first = named = HELD_OUT if tested else KEPT
            others = KEPT
        name = f"{self.plain_edition} {split}"
        draws, marks = Draws(name), Draws(f"{name} clutter")
        streams = {each: Draws(f"{name} {each}") for each in abilities}
        ask: dict[str, Any] = {"absent": self.part == "absent"}
        if self.part == "priors":
            ask["favoured"] = int(split == "test")

        def picture(things: list[Thing], questions: list[Asked]) -> Picture:
            pixels = draw(things, COLORS, SIZE)
            scatter(pixels, marks, self.clutter, things, [*COLORS.values()])
            known = described(things, [*COLORS], SHAPES, SIZE)
            return Picture(pixels, rows(questions, self.language, self.pairs), known)

        made = (
            picture(things, questions)
            for things in _scenes(draws, counts, first, others)
            if (questions := asked(Scene(things, named, SIZE), streams, **ask))
        )
        return islice(made, -(-self.scenes // parts[split]))


def _scenes(
    draws: Draws, counts: Sequence[int], first: Shapes, others: Shapes
) -> Iterator[list[Thing]]:
    while True:
        if things := _things(draws, counts, first, others):
            yield things


def _things(
    draws: Draws, counts: Sequence[int], first: Shapes, others: Shapes
) -> list[Thing] | None:
    """Objects in random order, `counts` assigned to the shapes at random; None if no colours are
    left for these shapes."""
    of_shape = zip(SHAPES, draws.some(counts, len(SHAPES)), strict=True)
    several = [shape for shape, count in of_shape for _ in range(count)]
    shapes = draws.some(several, len(several))
    left, colors = draws.some(list(COLORS), len(COLORS)), list[str]()
    for place, shape in enumerate(shapes):
        possible = others if shape in shapes[:place] else first
        fitting = [color for color in left if shape in possible[color]]
        if not fitting:
            return None
        colors.append(fitting[0])
        left.remove(fitting[0])
    centres = places(draws, len(shapes), RADIUS, SIZE)
    return [
        Thing(color, shape, RADIUS, x, y)
        for color, shape, (x, y) in zip(colors, shapes, centres, strict=True)
    ]
