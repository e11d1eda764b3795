"""Explanations as images: the original beside its maps, with words, scales and a legend."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from textwrap import wrap
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vlm.asking import percent
from vlm.explain.agreement import agreement
from vlm.explain.contours import (
    FOR,
    LEVELS,
    colour,
    overlay,
    shares,
    swatch,
)
from vlm.explain.explanation import Explanation
from vlm.image.as_text import in_words
from vlm.image.load import load_image

SIDE = 448
"""Pixels of a drawn image's longer side."""
MARGIN, COLUMNS = 24, 3
INK, QUIET = (20, 20, 20), (95, 95, 95)


def picture(explanation: Explanation, image: Any = None) -> Image.Image:
    """The image as it is drawn, `SIDE` pixels long; grey for region features, which have none."""
    width, height = explanation.image_size
    if image is None or (width, height) == (1, 1):
        return Image.new("RGB", (SIDE, SIDE), "lightgrey")
    scale = SIDE / max(width, height)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    return load_image(image).convert("RGB").resize(size, Image.Resampling.LANCZOS)


def heat_map(explanation: Explanation, image: Any = None, word: int | None = None) -> Image.Image:
    """The image under contours around the cells that matter, as `vlm.explain.overlay` draws them.

    Cells are outlined without smoothing, because the method found nothing finer. The image keeps
    its colours.

    Args:
        explanation: explanation to draw.
        image: the explained image, as for `explain`; None (region features) draws on grey.
        word: index of the token in `words` whose share of the map is drawn; None for the whole map.

    Raises:
        ValueError: a word that does not exist, or an explanation without `word_patch`.
    """
    drawn = picture(explanation, image)
    lines = overlay(explanation, drawn.size, word)
    drawn.paste(lines, (0, 0), lines)
    return drawn


def draw(explanations: Explanation | Sequence[Explanation], image: Any = None) -> Image.Image:
    """The image beside the map of each explanation, with its words, their scales and a legend.

    Args:
        explanations: one explanation, or several of one answer by different methods.
        image: the explained image, as for `explain`; None (region features) draws on grey.
    """
    several = [explanations] if isinstance(explanations, Explanation) else list(explanations)
    first = several[0]
    shown = picture(first, image)
    width = max(shown.width, 420)
    panels = [_below([_text(["the image"], width, 16, INK), shown], width, 8)]
    panels += [_panel(each, heat_map(each, image), width) for each in several]
    columns = min(len(panels), COLUMNS)
    sheet = width * columns + MARGIN * (columns + 1)
    blocks = [_header(first, sheet - 2 * MARGIN)]
    starts = range(0, len(panels), columns)
    blocks += [_beside(panels[start : start + columns], width) for start in starts]
    blocks.append(_text(notes(several), sheet - 2 * MARGIN, 14, QUIET))
    canvas = Image.new("RGB", (sheet, MARGIN + sum(b.height + MARGIN for b in blocks)), "white")
    top = MARGIN
    for block in blocks:
        canvas.paste(block, (MARGIN, top))
        top += block.height + MARGIN
    return canvas


def headline(explanation: Explanation) -> str:
    """The answer with its probability, beside the model's own if that is another."""
    answer = in_words(explanation.answer)
    if explanation.is_guess:
        return f"No answer: the question is beyond the model (its guess: {answer})"
    if explanation.probability is None:
        said = f"{answer} (not among the answers that the model ranks)"
    else:
        known = "calibrated" if explanation.calibrated else "not calibrated"
        said = f"{answer} ({percent(explanation.probability)}, {known})"
    own = explanation.own_answer
    return (
        said
        if own in (None, explanation.answer)
        else f"Why {said}? The model says {in_words(own)}."
    )


class Scale(NamedTuple):
    """A row of a map's legend: the thin, the middle and the thick line.

    Attributes:
        sign: 1 for cells above 0, -1 for those below.
        means: what such cells say.
        least: the relevance from which each line is drawn.
    """

    sign: int
    means: str
    least: list[str]


def scales(explanation: Explanation) -> list[Scale]:
    """The legend of a map: a row for each sign that it has, in the method's unit."""
    patches = explanation.patches
    strongest = float(np.abs(patches).max(initial=0))
    means = {1: "for the answer", -1: "against it"}
    if not explanation.signed:
        means = {1: "where it looks"}
    return [
        Scale(sign, text, [f"{sign * level * strongest:.2g}" for level in LEVELS])
        for sign, text in means.items()
        if strongest and (sign * patches).max(initial=0) >= LEVELS[0] * strongest
    ]


def notes(explanations: Sequence[Explanation]) -> list[str]:
    """What to know when reading a drawing, a sentence or two each."""
    found = [
        "Lines surround the cells that reach 25, 50 and 75 % of a map's strongest one. Orange "
        "speaks for the answer, blue and dashed against it; purple marks where a method looks, "
        "without saying whether it is for or against. Words have their own scale, the number below "
        "each. Evidence is the score of the model's head for the answer: a logit or a "
        "log-likelihood."
    ]
    if len(explanations) > 1:
        found.append("Each map has its own scale: compare where methods point, not how strongly.")
        found.append(agreement(explanations).sentence)
    return found


def tint(share: float, signed: bool) -> tuple[int, int, int]:
    """A word's ground: white for nothing, the code's colour for the strongest, always light enough
    for dark letters."""
    strength = 0.6 * abs(share)
    r, g, b = (round(255 + strength * (c - 255)) for c in colour(share, signed))
    return r, g, b


def _header(explanation: Explanation, width: int) -> Image.Image:
    parts = [
        _text([explanation.question], width, 18, QUIET),
        _text([headline(explanation)], width, 26, INK),
    ]
    if explanation.warnings:
        parts.append(_text(explanation.warnings, width, 14, FOR))
    return _below(parts, width, 4)


def _panel(explanation: Explanation, drawn: Image.Image, width: int) -> Image.Image:
    parts = [
        _text([explanation.method], width, 16, INK),
        drawn,
        *(_legend(row, explanation.signed, width) for row in scales(explanation)),
        _text([f"cells: {explanation.unit}"], width, 13, QUIET),
        _words(explanation, width),
        _text([f"words: {explanation.word_unit}"], width, 13, QUIET),
    ]
    return _below(parts, width, 8)


def _legend(row: Scale, signed: bool, width: int) -> Image.Image:
    font, step = _font(13), width // 4
    canvas = Image.new("RGB", (width, 30), "white")
    pen = ImageDraw.Draw(canvas)
    for level, least in enumerate(row.least):
        cell = swatch(row.sign, level, signed, SIDE)
        canvas.paste(cell, (step * level, 0), cell)
        pen.text(
            (step * level + 36, 7), f"{'≥' if row.sign > 0 else '≤'} {least}", font=font, fill=INK
        )
    pen.text((step * 3, 7), row.means, font=font, fill=INK)
    return canvas


def _words(explanation: Explanation, width: int) -> Image.Image:
    """The question's words on their colours, each over its number."""
    font, small = _font(16), _font(12)
    signed = explanation.words_signed
    canvas = Image.new("RGB", (width, 46 * (len(explanation.words) + 1)), "white")
    pen = ImageDraw.Draw(canvas)
    left = top = 0
    relevance = explanation.word_relevance
    for word, value, share in zip(explanation.words, relevance, shares(relevance), strict=True):
        number = f"{value:+.2g}" if signed else f"{value:.2g}"
        wide = min(int(max(font.getlength(word), small.getlength(number))) + 12, width)
        if left and left + wide > width:
            left, top = 0, top + 46
        box = (left, top, left + wide, top + 40)
        pen.rounded_rectangle(box, 5, fill=tint(share, signed), outline=(200, 200, 200))
        pen.text((left + 6, top + 2), word, font=font, fill=INK)
        pen.text((left + 6, top + 23), number, font=small, fill=INK)
        left += wide + 5
    return canvas.crop((0, 0, width, top + 41))


def _text(paragraphs: Sequence[str], width: int, size: int, ink: Any) -> Image.Image:
    font = _font(size)
    letters = max(int(width / font.getlength("n")), 1)
    lines = [line for text in paragraphs for line in wrap(text, letters) or [""]]
    step = round(1.35 * size)
    canvas = Image.new("RGB", (width, max(step * len(lines), 1)), "white")
    pen = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines):
        pen.text((0, number * step), line, font=font, fill=ink)
    return canvas


def _below(parts: Sequence[Image.Image], width: int, gap: int) -> Image.Image:
    canvas = Image.new("RGB", (width, sum(p.height + gap for p in parts) - gap), "white")
    top = 0
    for part in parts:
        canvas.paste(part, (0, top))
        top += part.height + gap
    return canvas


def _beside(parts: Sequence[Image.Image], width: int) -> Image.Image:
    step = width + MARGIN
    canvas = Image.new("RGB", (step * len(parts), max(p.height for p in parts)), "white")
    for number, part in enumerate(parts):
        canvas.paste(part, (number * step, 0))
    return canvas


@lru_cache
def _font(size: int) -> Any:
    # Matplotlib brings a font with more than Latin letters.
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
    return ImageFont.truetype(str(path), size)
