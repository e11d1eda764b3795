"""Scenes: simple pictures whose questions take one ability each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vlm.core.validation import check_positive, did_you_mean, nearest
from vlm.datasets.base import Score, Split
from vlm.datasets.generated.base import GeneratedDataset, Picture
from vlm.datasets.generated.drawing import Draws, Thing, described, draw, places, scatter
from vlm.datasets.generated.judge import shows
from vlm.datasets.generated.questions import (
    NOT_THERE,
    SHAPES,
    TEMPLATES,
    YES_NO,
    Asked,
    Scene,
    asked,
)
from vlm.datasets.generated.sentences import DRAW, row, sentence, things_of
from vlm.datasets.generated.wordings import LANGUAGES, rows
from vlm.datasets.presence import Boxes, Name, Presence
from vlm.datasets.table import stream
from vlm.datasets.vocabulary import VocabularyRules
from vlm.image.as_text import is_picture, picture_of, picture_text
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
    """Scenes of objects with different colours, and questions that test one ability each.

    The abilities (`answer_type`, the lines of the report) are attribute, exist, count, compare,
    position, left of, above, closest, furthest, same as, two-hop and logic; each image has 33
    questions. From the image alone or the words alone, the possible answers (`choices`) of a
    question are equally likely: the floors are 33 % on attribute, count, same as and two-hop, and
    50 % on the others. In `compare`, `left of` and `above` the order of the words decides, so a bag
    of words stays at the floor; in `closest`, `furthest` and the "or" of `logic` it decides some
    questions. If few questions have the drawn answer, one may be repeated (4 % of all, 7 % with
    "priors"). Images have 64 x 64 pixels, with six circles, squares and triangles of ten colours.
    Validation has a ninth as many images as training, and test a quarter. The `.npz` file of an
    image holds the box, colour, shape and place of each object. `question_type` is the English form
    of the question, whatever its language and wording. No size is checked: what is generated has a
    digest.

    Args:
        root: folder for the generated files; None for a folder in the cache (`VLM_CACHE`).
        part: variant of the set. "longer" has images of ten objects in test, and no questions of
            count and same as. In "compositional", training and validation show each colour with two
            of the three shapes, and test asks about the third; guessing from the words then gets 50
            % of the questions about a shape right in training, and 0 % in test. In "priors", one
            answer to each form of question has a share of 80 % in training and validation, and
            another one in test (after VQA-CP, arXiv 1712.00377); guessing from the words gets 80 %
            right, and in test 20 %, or 10 % if there are three answers. "absent" also asks about
            "the red object" if no object is red; the answer is then "not there", a further choice
            that is as likely as the others, and so is the `answer_type`.
        scenes: number of training images.
        validation_share: not used, because validation is generated.
        vocabulary: rules for the words and answers that enter the vocabularies.
        seed: seed of images and questions; digests are published for 0.
        abilities: abilities to ask about; None for all. The images are the same in any case.
        language: language of questions and answers, "en", "de" or "es"; the rest is the same.
        pairs: whether other wordings follow each question: a paraphrase and, if possible, another
            question with the same answer and one with the opposite answer. `relation` names the
            kind, and `pair` is the id of the original question.
        clutter: number of strokes in each image that are no objects, 3 to 5 pixels long and in any
            of the colours; 0 for none. Questions and objects are the same.
        drawings: number of sentences beside each image that ask for another one, such as "Draw a
            red circle left of a blue square."; 0 for none. The image asked about does not matter
            to them. Their `answer_type` is "draw", and their answer the text of an image
            (`vlm.image.picture_text`). A drawn image is right if it shows the objects of the
            sentence and nothing else, read from its pixels. No sentence is in two splits, nor
            another one that means the same. Questions and objects are the same.

    Example:
        >>> data = vlm.datasets.Scenes(scenes=36)
        >>> data.read("test").num_rows, data.read("test")["answers"][2].as_py()
        (297, ['circle'])
    """

    revision: ClassVar = 3
    variations: ClassVar = {"language": "en", "pairs": False, "clutter": 0, "drawings": 0}

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
        drawings: int = 0,
    ) -> None:
        super().__init__(root, validation_share, vocabulary, seed)
        check_positive(scenes=scenes)
        if not isinstance(clutter, int) or clutter < 0:
            raise ValueError(f"clutter: got {clutter!r}; expected a number of strokes, or 0.")
        if not isinstance(drawings, int) or drawings < 0:
            raise ValueError(f"drawings: got {drawings!r}; expected a number of sentences, or 0.")
        if drawings and language != "en":
            raise ValueError(
                f"drawings: got {drawings} with language={language}; expected 0, or language=en, "
                "in which the sentences are."
            )
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
        self.part, self.scenes, self.clutter, self.drawings = part, scenes, clutter, drawings
        self.language, self.pairs = LANGUAGES[language], pairs
        self.abilities = None if abilities is None else list(abilities)
        if part == "absent":
            self.unanswerable = self.language.translated(NOT_THERE)

    def read(self, split: Split) -> pa.Table | None:
        table = super().read(split)
        if table is None or self.abilities is None:
            return table
        forms = [each.text for each in TEMPLATES if each.ability in self.abilities]
        asked = pc.field("question_type").isin(forms) | (pc.field("answer_type") == DRAW)
        return table.filter(asked)

    def scoring(self, table: pa.Table) -> Iterator[Score]:
        if not self.drawings:
            return super().scoring(table)
        return (
            partial(_is_drawn, question) if kind == DRAW else self.score
            for kind, question in stream(table, "answer_type", "question")
        )

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
        draws, marks, pens = Draws(name), Draws(f"{name} clutter"), Draws(f"{name} {DRAW}")
        streams = {each: Draws(f"{name} {each}") for each in abilities}
        ask: dict[str, Any] = {"absent": self.part == "absent"}
        if self.part == "priors":
            ask["favoured"] = int(split == "test")

        def picture(things: list[Thing], questions: list[Asked]) -> Picture:
            pixels = draw(things, COLORS, SIZE)
            scatter(pixels, marks, self.clutter, things, [*COLORS.values()])
            known = described(things, [*COLORS], SHAPES, SIZE)
            asked = rows(questions, self.language, self.pairs)
            for _ in range(self.drawings):
                said = sentence(pens, [*COLORS], split)
                drawn = draw(things_of(pens, said, RADIUS, SIZE), COLORS, SIZE)
                asked.append(row(said, picture_text(drawn)))
            return Picture(pixels, asked, known)

        made = (
            picture(things, questions)
            for things in _scenes(draws, counts, first, others)
            if (questions := asked(Scene(things, named, SIZE), streams, **ask))
        )
        return islice(made, -(-self.scenes // parts[split]))


def _is_drawn(sentence: str, prediction: str, answers: Sequence[str]) -> float:
    """`Dataset.score` of a picture: any that shows the sentence is right."""
    return float(is_picture(prediction) and shows(np.asarray(picture_of(prediction)), sentence))


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
