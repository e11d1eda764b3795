"""A small set of images with questions in many of the world's scripts."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageDraw

COLOURS = ((220, 40, 40), (40, 170, 60), (40, 60, 220))
CORNERS = (0, 4, 3)  # circle, square, triangle


class Language(NamedTuple):
    """Questions and answers in one language.

    Attributes:
        asked: questions for the colour, the shape, whether a shape is shown, and whether it has a
            given colour.
        colours: names of `COLOURS`.
        shapes: names of `CORNERS`.
        answers: the words for no and yes.
        alike: two words that ask for the colour and the shape; in scripts with marks, they differ
            only in those.
    """

    asked: tuple[str, str, str, str]
    colours: tuple[str, str, str]
    shapes: tuple[str, str, str]
    answers: tuple[str, str]
    alike: tuple[str, str]


_FILE = Path(__file__).with_suffix(".json").read_text(encoding="utf-8")
LANGUAGES = {name: Language(**texts) for name, texts in json.loads(_FILE).items()}


def draw_shapes(folder: Path, images: int, seed: int) -> list[tuple[str, int, int]]:
    """Draws images of 32 x 32 pixels and returns each one's name, colour and shape."""
    folder.mkdir(exist_ok=True)
    rng = random.Random(seed)
    drawn = []
    for number in range(images):
        name, colour, shape = f"{seed}-{number}.png", rng.randrange(3), rng.randrange(3)
        image = Image.new("RGB", (32, 32), "white")
        x, y, radius = rng.randint(13, 18), rng.randint(13, 18), rng.randint(10, 12)
        pen = ImageDraw.Draw(image)
        if CORNERS[shape]:
            pen.regular_polygon((x, y, radius), CORNERS[shape], fill=COLOURS[colour])
        else:
            pen.circle((x, y), radius, fill=COLOURS[colour])
        image.save(folder / name)
        drawn.append((name, colour, shape))
    return drawn


def rows_in(
    language: Language, drawn: list[tuple[str, int, int]], seed: int
) -> Iterator[dict[str, Any]]:
    """Six questions per image; two are yes/no questions, half of which have the answer yes."""
    rng = random.Random(seed)
    colours, shapes, (no, yes) = language.colours, language.shapes, language.answers
    for image, colour, shape in drawn:
        asked = [rng.choice([is_, (is_ + rng.randint(1, 2)) % 3]) for is_ in (shape, colour)]
        for question, answer in (
            (language.alike[0], colours[colour]),
            (language.alike[1], shapes[shape]),
            (language.asked[0], colours[colour]),
            (language.asked[1], shapes[shape]),
            (language.asked[2].format(shapes[asked[0]]), yes if asked[0] == shape else no),
            (language.asked[3].format(colours[asked[1]]), yes if asked[1] == colour else no),
        ):
            yield {"image": image, "question": question, "answer": answer}
