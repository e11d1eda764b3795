"""Whether several methods name the same parts of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vlm.core.validation import counted
from vlm.explain.contours import shares
from vlm.explain.explanation import Explanation
from vlm.explain.faithfulness import rank_correlation

AGREE, IN_PART = 0.7, 0.3
"""Mean rank correlations from which methods agree, and agree in part."""
NOTHING = 0.02
"""Share of a map's strongest cell below which a cell does not matter. Cells that matter to no
method are left out: on a plain ground they are most, and all methods agree on them."""


class Agreement(NamedTuple):
    """The agreement between the maps of several methods.

    Attributes:
        methods: names of the M methods.
        correlations: (M, M) rank correlation in [-1, 1] over the cells that matter to any method,
            with signs if both maps have them; NaN for a map with equal values everywhere.
        cells: number of these cells.
        same_peak: number of methods that agree on the strongest cell.
        sentence: summary of the agreement in words.

    Example:
        >>> vqa = vlm.load("my_model")
        >>> maps = [vlm.explain.explain(vqa, "photo.png", "what color is it?", method)
        ...         for method in (vlm.explain.Occlusion(), vlm.explain.GradCAM())]
        >>> vlm.explain.agreement(maps).sentence.startswith("On the image, the methods ")
        True
    """

    methods: list[str]
    correlations: np.ndarray
    cells: int
    same_peak: int
    sentence: str


def agreement(explanations: Sequence[Explanation]) -> Agreement:
    """Compare the maps of at least two methods for one answer.

    The maps are compared on the cells of the coarsest one: the values of a finer map in each cell
    are summed.

    Raises:
        ValueError: fewer than two.

    Example:
        >>> vqa = vlm.load("my_model")
        >>> maps = [vlm.explain.explain(vqa, "photo.png", "what color is it?", method)
        ...         for method in (vlm.explain.Occlusion(), vlm.explain.GradCAM())]
        >>> found = vlm.explain.agreement(maps)
        >>> found.methods, found.correlations.shape
        (['occlusion', 'grad_cam'], (2, 2))
    """
    if len(explanations) < 2:
        raise ValueError(f"explanations: got {len(explanations)}; expected at least two.")
    coarsest = min(explanations, key=lambda found: len(found.patches)).boxes
    maps = [shares(_on_cells(found, coarsest)) for found in explanations]
    matter = np.max(np.abs(maps), axis=0) >= NOTHING
    signed = [found.signed for found in explanations]

    def correlation(i: int, j: int) -> float:
        if matter.sum() < 2:
            return float("nan")
        a, b = maps[i][matter], maps[j][matter]
        return (
            rank_correlation(a, b) if signed[i] and signed[j] else rank_correlation(abs(a), abs(b))
        )

    count = range(len(maps))
    table = np.array([[correlation(i, j) for j in count] for i in count])
    peaks = [int(np.abs(values).argmax()) for values in maps]
    same = max(map(peaks.count, peaks))
    pairs = table[np.triu_indices(len(maps), 1)]
    cells = int(matter.sum())
    sentence = _sentence(pairs[~np.isnan(pairs)], cells, same, len(maps))
    return Agreement([found.method for found in explanations], table, cells, same, sentence)


def _on_cells(explanation: Explanation, cells: np.ndarray) -> np.ndarray:
    """What lies in each of the coarser cells, by the middle of the explanation's own."""
    if len(explanation.boxes) == len(cells):
        return explanation.patches
    x, y = ((explanation.boxes[:, :2] + explanation.boxes[:, 2:]) / 2).T
    x0, y0, x1, y1 = cells.T[..., None]
    inside = (x0 <= x) & (x < x1) & (y0 <= y) & (y < y1)
    return np.asarray(inside @ explanation.patches)


def _sentence(pairs: np.ndarray, cells: int, same: int, methods: int) -> str:
    if not len(pairs):
        return "On the image, the methods cannot be compared: a map is the same all over."
    mean = float(pairs.mean())
    verdict = "agree" if mean >= AGREE else "agree in part" if mean >= IN_PART else "disagree"
    across = f", {pairs.min():+.2f} to {pairs.max():+.2f} over {len(pairs)} pairs"
    peak = f"{same} of {methods} name the same strongest cell"
    advice = "" if verdict == "agree" else " Trust the cells that several of them outline."
    return (
        f"On the image, the methods {verdict}: over the {counted(cells, 'cell')} that matter to "
        f"any of them, the rank correlation of their maps is {mean:+.2f}"
        f"{' on average' if len(pairs) > 1 else ''}"
        f"{across if len(pairs) > 1 else ''} (1: the same order of cells, 0: unrelated); "
        f"{peak if same > 1 else 'each names another strongest cell'}.{advice}"
    )
