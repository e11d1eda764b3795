"""Sort-of-CLEVR: questions about one object, and about relations between objects.

Santoro et al., "A simple neural network module for relational reasoning", NeurIPS 2017
(arXiv 1706.01427), section 4.2 and supplementary material; written from the paper.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vlm.datasets.base import Split
from vlm.datasets.generated.base import GeneratedDataset, Picture
from vlm.datasets.generated.drawing import Draws, Thing, described, draw, places
from vlm.datasets.vocabulary import VocabularyRules

SIZE, RADIUS, ASKED = 75, 5, 10
PICTURES: dict[Split, int] = {"train": 9_800, "test": 200}
SHAPES = ("circle", "square")
COLORS = {
    "red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "orange": (255, 156, 0),
    "gray": (128, 128, 128), "yellow": (255, 255, 0),
}  # fmt: skip


class SortOfCLEVR(GeneratedDataset):
    """Sort-of-CLEVR: images of 75 x 75 pixels, each with ten unary and ten relational questions.

    There are 9,800 training and 200 test images of circles and squares in six colours, one object
    of each colour. Unary questions ask for an object's shape, and whether it is on the left or at
    the top. Relational questions ask for the shape of the object closest to one or furthest from
    it, and how many objects have its shape (including itself). The paper encodes questions as bits;
    here they are sentences, and the ten questions of each kind are drawn at random. Answers are not
    balanced, as in the paper. The report has a line for each of the two kinds. No size is checked:
    generated content has a digest.

    **From states.** The paper also gives the network a list of objects instead of pixels. These are
    in `.npz` files, with a token for each object: colour (6), shape (2), place (2). To use them,
    set `--dataset.root=FOLDER --data.images.regions=FOLDER` with `vlm.image.RegionFeatures` of
    `dim: 10`.

    Args:
        root: folder for the generated files; None for a folder in the cache (`VLM_CACHE`).
        objects: number of objects in a training image, 4 to 6; a test image always has six.
        validation_share: share of the training images held out if the set has no validation split.
        vocabulary: rules for the words and answers that enter the vocabularies.
        seed: seed of images, questions and held-out images; digests are published for 0.

    Example:
        >>> vlm.datasets.SortOfCLEVR().read("test").num_rows
        4000
    """

    def __init__(
        self,
        root: Path | None = None,
        objects: int = 6,
        validation_share: float = 0.1,
        vocabulary: VocabularyRules = VocabularyRules(),
        seed: int = 0,
    ) -> None:
        super().__init__(root, validation_share, vocabulary, seed)
        if not 4 <= objects <= len(COLORS):
            raise ValueError(f"objects: got {objects}; expected 4 to {len(COLORS)}.")
        self.objects = objects

    def pictures(self, split: Split) -> Iterator[Picture] | None:
        if split not in PICTURES:
            return None
        objects = self.objects if split == "train" else len(COLORS)
        draws = Draws(f"{self.edition} {split}")
        return (_picture(draws, objects) for _ in range(PICTURES[split]))


def _picture(draws: Draws, objects: int) -> Picture:
    while True:
        things = [
            Thing(color, draws.one(SHAPES), RADIUS, x, y)
            for color, (x, y) in zip(
                draws.some(list(COLORS), objects),
                places(draws, objects, RADIUS, SIZE),
                strict=True,
            )
        ]
        if all(_one_is_closest_and_furthest(thing, things) for thing in things):
            break
    unary = [row for thing in things for row in _unary(thing)]
    relational = [row for thing in things for row in _relational(thing, things)]
    rows = [*draws.some(unary, ASKED), *draws.some(relational, ASKED)]
    states = described(things, [*COLORS], SHAPES, SIZE)
    return Picture(draw(things, COLORS, SIZE, 255), rows, states)


def _one_is_closest_and_furthest(thing: Thing, things: Sequence[Thing]) -> bool:
    away = [thing.squared_distance(other) for other in things if other is not thing]
    return away.count(min(away)) == away.count(max(away)) == 1


def _row(kind: str, form: str, thing: Thing, answer: str) -> dict[str, Any]:
    question = form.format(thing.color)
    return {
        "question": question, "answer": answer, "answer_type": kind, "question_type": form
    }  # fmt: skip


def _unary(thing: Thing) -> Iterator[dict[str, Any]]:
    for form, answer in (
        ("What shape is the {} object?", thing.shape),
        ("Is the {} object on the left?", "yes" if 2 * thing.x < SIZE - 1 else "no"),
        ("Is the {} object at the top?", "yes" if 2 * thing.y < SIZE - 1 else "no"),
    ):
        yield _row("unary", form, thing, answer)


def _relational(thing: Thing, things: Sequence[Thing]) -> Iterator[dict[str, Any]]:
    others = sorted((each for each in things if each is not thing), key=thing.squared_distance)
    for form, answer in (
        ("What shape is the object closest to the {} object?", others[0].shape),
        ("What shape is the object furthest from the {} object?", others[-1].shape),
        (
            "How many objects have the shape of the {} object?",
            str(sum(each.shape == thing.shape for each in things)),
        ),
    ):
        yield _row("relational", form, thing, answer)
