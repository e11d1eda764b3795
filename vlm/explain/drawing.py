"""Explanations as images."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vlm.explain.explanation import Explanation
from vlm.image.load import load_image

SIDE = 512
"""Pixels of a drawn photo's longer side."""
FOR, AGAINST = (214, 39, 40), (31, 119, 180)
"""Colours of what speaks for an answer and against it."""
STRONGEST = 0.75
"""Opacity of the strongest cell."""
PALE = 0.4
"""How much of the photo is white."""
MARGIN, LINE = 16, 34


def heat_map(explanation: Explanation, photo: Any = None, word: int | None = None) -> Image.Image:
    """The photo with its cells in red where they speak for the answer, in blue against it.

    The photo is pale and grey, since red on a red circle would not be seen.
    Cells are drawn as they are, without smoothing: nothing finer was found.

    Args:
        explanation: explanation to draw.
        photo: as for `explain`; None (region features) draws on grey.
        word: draw only what is owed to this token of `words`; None draws the whole map.

    Raises:
        ValueError: a word that is not there, or an explanation made without `word_patch`.
    """
    values = explanation.patches
    if word is not None:
        if explanation.word_patch is None:
            raise ValueError(
                "word: the explanation has no map for each word; make it with per_word=True."
            )
        if not 0 <= word < len(explanation.words):
            raise ValueError(f"word: got {word}; expected 0 to {len(explanation.words) - 1}.")
        values = explanation.word_patch[word]
    width, height = explanation.image_size
    image = Image.new("RGB", (SIDE, SIDE), "lightgrey") if photo is None else load_image(photo)
    if photo is not None and (width, height) != (1, 1):
        scale = SIDE / max(width, height)
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        image = image.resize(size, Image.Resampling.LANCZOS)
    grey = np.asarray(image.convert("L"), np.float32)
    pixels = np.repeat((PALE * 255 + (1 - PALE) * grey)[..., None], 3, -1)
    strength = _shares(values)
    scales = np.array([image.width / width, image.height / height] * 2)
    bounds = np.array([image.width, image.height] * 2)
    boxes = (explanation.boxes * scales).round().clip(0, bounds).astype(int)
    # The weakest first, so that of regions that overlap the strongest is seen.
    for cell in np.abs(strength).argsort():
        x0, y0, x1, y1 = boxes[cell]
        part = pixels[y0:y1, x0:x1]
        opacity = STRONGEST * abs(strength[cell])
        part += opacity * (np.array(_colour(strength[cell]), np.float32) - part)
    return Image.fromarray(pixels.round().astype(np.uint8))


def draw(explanation: Explanation, photo: Any = None) -> Image.Image:
    """The heat map with the question's words beside it, coloured by their relevance."""
    image = heat_map(explanation, photo)
    font, small = _font(20), _font(14)
    words = explanation.words
    large = [font.getlength(text) for text in (*words, explanation.answer)]
    widest = max(*large, small.getlength(explanation.method), 120)
    height = max(image.height, MARGIN + LINE * (len(words) + 3))
    width = image.width + 3 * MARGIN + int(widest) + 16
    canvas = Image.new("RGB", (width, height), "white")
    canvas.paste(image, (0, 0))
    pen = ImageDraw.Draw(canvas)
    left, top = image.width + MARGIN, MARGIN
    for word, share in zip(words, _shares(explanation.word_relevance), strict=True):
        colour = tuple(round(255 + abs(share) * (c - 255)) for c in _colour(share))
        pen.rectangle((left, top, left + 16 + widest, top + LINE - 4), fill=colour)
        dark = abs(share) > 0.6
        pen.text((left + 8, top + 2), word, font=font, fill="white" if dark else "black")
        top += LINE
    top += LINE // 2
    pen.text((left + 8, top), explanation.answer, font=font, fill="black")
    pen.text((left + 8, top + LINE), explanation.method, font=small, fill="grey")
    return canvas


def stack(images: list[Image.Image]) -> Image.Image:
    """Images below each other on white."""
    width = max(image.width for image in images)
    height = sum(image.height + MARGIN for image in images) - MARGIN
    canvas = Image.new("RGB", (width, height), "white")
    top = 0
    for image in images:
        canvas.paste(image, (0, top))
        top += image.height + MARGIN
    return canvas


def _shares(values: np.ndarray) -> np.ndarray:
    """In [-1, 1], the strongest being 1 or -1; zeros of zeros."""
    strongest = np.abs(values).max(initial=0)
    return values / strongest if strongest > 0 else values


def _colour(share: float) -> tuple[int, int, int]:
    return FOR if share > 0 else AGAINST


@lru_cache
def _font(size: int) -> Any:
    # Matplotlib brings a font with more than Latin letters.
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
    return ImageFont.truetype(str(path), size)
