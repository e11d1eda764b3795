"""SQOOP-lite: letters and their relations, trained on few pairs and tested on others.

After Bahdanau et al., "Systematic Generalization: What Is Required and Can It Be Learned?", ICLR
2019 (arXiv 1811.12889); written from the paper, with fewer letters and objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from vlm.datasets.base import Split
from vlm.datasets.generated.base import GeneratedDataset, Picture
from vlm.datasets.generated.drawing import Draws, places
from vlm.datasets.vocabulary import VocabularyRules

SIZE, RADIUS = 64, 7
PICTURES: dict[Split, int] = {"train": 10_000, "validation": 1_000, "test": 1_000}
LETTERS = {
    "A": "01110 10001 10001 11111 10001 10001 10001",
    "C": "01110 10001 10000 10000 10000 10001 01110",
    "E": "11111 10000 10000 11110 10000 10000 11111",
    "H": "10001 10001 10001 11111 10001 10001 10001",
    "K": "10001 10010 10100 11000 10100 10010 10001",
    "L": "10000 10000 10000 10000 10000 10000 11111",
    "S": "01111 10000 10000 01110 00001 00001 11110",
    "T": "11111 00100 00100 00100 00100 00100 00100",
    "X": "10001 10001 01010 00100 01010 10001 10001",
    "Z": "11111 00001 00010 00100 01000 10000 11111",
}
"""Five by seven dots each; in a picture a dot is two by two pixels."""
RELATIONS = (("left of", "right of"), ("above", "below"))
SEEN = 4
"""Of the nine letters that can stand on the right of a relation, those training may ask about."""


class SQOOPLite(GeneratedDataset):
    """SQOOP-lite: "Is the A left of the Z?", with a share of the pairs of letters in training.

    Images have 64 x 64 pixels and three of ten letters. Each has two questions about two letters
    that are both in it, one along each axis; yes and no are equally likely. For each letter on the
    left of a relation, training asks about `partners` letters on its right; test asks about five
    others, the same for all values of `partners`. With `partners: 9`, no pair of the test is new,
    so this is the best that can be reached. The report has a line for each of the four relations.
    No size is checked: generated content has a digest.

    Args:
        root: folder for the generated files; None for a folder in the cache (`VLM_CACHE`).
        partners: number of letters on the right of a relation for each letter on its left, in
            training and validation.
        validation_share: not used, because validation is generated.
        vocabulary: rules for the words and answers that enter the vocabularies.
        seed: seed of images and questions; digests are published for 0.

    Example:
        >>> vlm.datasets.SQOOPLite(partners=1).read("test").num_rows
        2000
    """

    def __init__(
        self,
        root: Path | None = None,
        partners: Literal[1, 2, 4, 9] = 4,
        validation_share: float = 0.1,
        vocabulary: VocabularyRules = VocabularyRules(),
        seed: int = 0,
    ) -> None:
        super().__init__(root, validation_share, vocabulary, seed)
        self.partners = partners

    def pictures(self, split: Split) -> Iterator[Picture] | None:
        if split not in PICTURES:
            return None
        steps = range(SEEN + 1, len(LETTERS)) if split == "test" else range(1, self.partners + 1)
        # The test is the same whatever was trained on.
        draws = Draws(f"{'SQOOPLite' if split == 'test' else self.edition} {split} {self.seed}")
        return (_picture(draws, steps) for _ in range(PICTURES[split]))


def _picture(draws: Draws, steps: range) -> Picture:
    """With a pair of letters that lie so many steps apart in the alphabet's circle."""
    names = list(LETTERS)
    one = draws.below(len(names))
    other = (one + draws.one(steps)) % len(names)
    pair = names[one], names[other]
    third = draws.one([name for name in names if name not in pair])
    centres = places(draws, 3, RADIUS, SIZE)
    while any(abs(p - q) < 2 for p, q in zip(*centres[:2], strict=True)):
        centres = places(draws, 3, RADIUS, SIZE)
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    for name, (x, y) in zip((*pair, third), centres, strict=True):
        pixels[y - 7 : y + 7, x - 5 : x + 5] = _letter(name)[..., None]
    rows = []
    for relations, p, q in zip(RELATIONS, *centres[:2], strict=True):
        relation = draws.one(relations)
        is_so = (p < q) == (relation == relations[0])
        rows.append(
            {
                "question": f"Is the {pair[0]} {relation} the {pair[1]}?",
                "answer": "yes" if is_so else "no",
                "answer_type": relation,
            }
        )
    return Picture(pixels, rows)


def _letter(name: str) -> np.ndarray:
    """(14, 10) uint8."""
    dots = np.array([[255 * int(dot) for dot in row] for row in LETTERS[name].split()], np.uint8)
    return dots.repeat(2, 0).repeat(2, 1)
