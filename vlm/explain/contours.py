"""An explanation's map as contours: every drawing, in a file or on a page, is made of these."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from vlm.explain.explanation import Explanation

FOR, AGAINST, NEUTRAL = (213, 94, 0), (0, 114, 178), (170, 51, 119)
"""Colours of what speaks for an answer, of what speaks against it, and of a method that has no
sign. People with any colour blindness tell them apart (Okabe and Ito 2008); in print, what speaks
against is dashed."""
LEVELS = (0.25, 0.5, 0.75)
"""Shares of the strongest cell at which contours are drawn."""
WIDTHS = (0.005, 0.009, 0.015)
"""Width of each level's line, in shares of the drawing's longer side."""
DASH, HALO = 0.022, 0.003
"""Length of a dash, and width of the white rim that separates a line from the image, likewise."""
GRID, SMALLEST = (128, 128, 128, 110), 12
"""Colour of the hairlines between cells, and the pixels of a cell below which there are none."""


def shares(values: np.ndarray) -> np.ndarray:
    """In [-1, 1], the strongest being 1 or -1; zeros of zeros."""
    strongest = np.abs(values).max(initial=0)
    return values / strongest if strongest > 0 else values


def cell_values(explanation: Explanation, word: int | None = None) -> np.ndarray:
    """(P,) of the whole map, or of what is owed to one word.

    Raises:
        ValueError: a word that does not exist, or an explanation without `word_patch`.
    """
    if word is None:
        return explanation.patches
    if explanation.word_patch is None:
        raise ValueError(
            "word: the explanation has no map for each word; make it with per_word=True."
        )
    if not 0 <= word < len(explanation.words):
        raise ValueError(f"word: got {word}; expected 0 to {len(explanation.words) - 1}.")
    return np.asarray(explanation.word_patch[word])


def overlay(
    explanation: Explanation, size: tuple[int, int], word: int | None = None
) -> Image.Image:
    """Draw a map to lay over the image: the cells' grid, and contours along their edges.

    A line surrounds the cells that reach a quarter, a half or three quarters of the strongest one;
    stronger lines are thicker. Evidence for the answer is orange and solid, and evidence against it
    is blue and dashed. The map of a method without a sign is purple.

    Args:
        explanation: explanation to draw.
        size: (width, height) of the drawing in pixels, with the image's proportions.
        word: index of the token in `words` whose share of the map is drawn; None for the whole map.

    Returns:
        An RGBA image of this size, transparent between the lines.

    Raises:
        ValueError: a word that does not exist, or an explanation without `word_patch`.

    Example:
        >>> vqa = vlm.load("my_model")
        >>> found = vlm.explain.explain(vqa, "photo.png", "what color is it?")
        >>> vlm.explain.overlay(found, (320, 320)).getbbox() is not None
        True
    """
    strength = shares(cell_values(explanation, word))
    boxes = _boxes(explanation, size)
    longer = max(size)
    # Of narrow cells too the middle stays free. Those outside the image have no area.
    sides = boxes[:, 2:] - boxes[:, :2]
    widest = max(int(sides[sides.all(1)].min(initial=longer)) // 4, 1)
    drawn = np.zeros((size[1], size[0], 4), np.uint8)
    drawn[_hairlines(boxes, explanation.grid, size)] = GRID
    contours = np.zeros((size[1], size[0]), bool)
    for level, share in zip(LEVELS, WIDTHS, strict=True):
        width = min(max(round(share * longer), 1), widest)
        for sign in (1, -1):
            inside = _union(boxes[sign * strength >= level], size)
            line = _line(inside, width, sign, longer)
            rim = _grown(line, max(round(HALO * longer), 1)) & ~line & ~contours
            drawn[rim] = (255, 255, 255, 210)
            drawn[line] = (*colour(sign, explanation.signed), 255)
            contours |= line
    return Image.fromarray(drawn)


def swatch(sign: float, level: int, signed: bool, longer: int, side: int = 30) -> Image.Image:
    """A cell outlined at one of `LEVELS`, in RGBA, for the legend of a drawing of that length."""
    inside = np.ones((side, side), bool)
    line = _line(inside, max(round(WIDTHS[level] * longer), 1), sign, longer)
    drawn = np.zeros((side, side, 4), np.uint8)
    drawn[line] = (*colour(sign, signed), 255)
    return Image.fromarray(drawn)


def colour(sign: float, signed: bool = True) -> tuple[int, int, int]:
    """The one colour code: of what is above 0 or below, by a method that has a sign or none."""
    if not signed:
        return NEUTRAL
    return FOR if sign > 0 else AGAINST


def _boxes(explanation: Explanation, size: tuple[int, int]) -> np.ndarray:
    """(P, 4) int: x0, y0, x1, y1 of each cell in the drawing's pixels."""
    scales = np.array([s / own for s, own in zip(size, explanation.image_size, strict=True)] * 2)
    return (explanation.boxes * scales).round().clip(0, np.array([*size] * 2)).astype(int)


def _hairlines(
    boxes: np.ndarray, grid: tuple[int, int] | None, size: tuple[int, int]
) -> np.ndarray:
    drawn = np.zeros((size[1], size[0]), bool)
    if grid is None or (boxes[:, 2:] - boxes[:, :2]).max() < SMALLEST:
        return drawn
    drawn[:, [x for x in set(boxes[:, 0].tolist()) if 0 < x < size[0]]] = True
    drawn[[y for y in set(boxes[:, 1].tolist()) if 0 < y < size[1]]] = True
    return drawn


def _line(inside: np.ndarray, width: int, sign: float, longer: int) -> np.ndarray:
    """The inner border of an area, dashed below 0."""
    line: np.ndarray = inside & ~_eroded(inside, width)
    if sign < 0:
        line &= _dashes(inside.shape, max(round(DASH * longer), 2))
    return line


def _union(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    covered = np.zeros((size[1], size[0]), bool)
    for x0, y0, x1, y1 in boxes:
        covered[y0:y1, x0:x1] = True
    return covered


def _grown(mask: np.ndarray, by: int) -> np.ndarray:
    grown = Image.fromarray(mask).convert("L").filter(ImageFilter.MaxFilter(2 * by + 1))
    return np.asarray(grown) > 0


def _eroded(mask: np.ndarray, by: int) -> np.ndarray:
    # Beyond the image lies nothing, so that a line runs along its border too.
    return ~_grown(np.pad(~mask, by, constant_values=True), by)[by:-by, by:-by]


def _dashes(shape: tuple[int, ...], length: int) -> np.ndarray:
    """A chessboard: lines along its axes become dashes."""
    y, x = (np.arange(side) // length for side in shape)
    dashes: np.ndarray = (x + y[:, None]) % 2 == 0
    return dashes
