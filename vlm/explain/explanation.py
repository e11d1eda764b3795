"""What an explanation says, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Span = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Explanation:
    """How much each word and each cell of the image spoke for one answer.

    Relevances are signed where the method can tell: above 0 speaks for the answer, below 0 against
    it. Their unit is the method's own, so compare them within one explanation. Shapes: L words, P
    cells.

    Attributes:
        question: as it was asked.
        answer: answer that is explained.
        probability: probability in [0, 1] of this answer; None for an answer that the model does
            not rank, such as a free text other than its best ones.
        calibrated: whether the probability was calibrated (`vlm calibrate`).
        evidence: the head's evidence for it, a logit or a log-likelihood.
        words: the L tokens of the question as the model reads them.
        spans: where each stands in `question`, (start, end); None for a token that is not in it.
        word_relevance: (L,) float32, in `word_unit`.
        boxes: (P, 4) float32: x0, y0, x1, y1 of each cell in the photo's pixels. Cells of a model
            that pads may lie outside the photo. For region features, whose photo is not at hand,
            in shares of it.
        grid: (rows, columns) of the cells, row by row; None for regions.
        patches: (P,) float32, the relevance of each cell, in `unit`.
        word_patch: (L, P) float32: each word's part of the cells' relevance; None if not requested.
        image_size: (width, height) of the photo in pixels; (1, 1) for region features.
        method: the method's name.
        unit: unit of the cells' relevance, in words.
        signed: whether cells can speak against the answer; else the map says where, not which way.
        word_unit: unit of the words' relevance.
        words_signed: whether words can.
        warnings: reasons to doubt the answer, one sentence each.
        is_guess: whether the question is beyond the model (`vlm.text.Tokenizer.misses`), so that
            the answer means nothing.
        seconds: duration of the explanation.

    Example:
        >>> found = vlm.explain.explain(vlm.load("my_model"), "photo.png", "what color is it?")
        >>> found.grid, found.patches.shape, found.word_patch.shape
        ((4, 4), (16,), (4, 16))
    """

    question: str
    answer: str
    probability: float | None
    calibrated: bool
    evidence: float
    words: list[str]
    spans: list[Span | None]
    word_relevance: np.ndarray
    boxes: np.ndarray
    grid: tuple[int, int] | None
    patches: np.ndarray
    word_patch: np.ndarray | None
    image_size: tuple[int, int]
    method: str
    unit: str
    signed: bool
    word_unit: str
    words_signed: bool
    warnings: list[str]
    is_guess: bool
    seconds: float

    @property
    def peak(self) -> tuple[float, float]:
        """(x, y) in the photo: the middle of the cell that matters most, for or against."""
        x0, y0, x1, y1 = self.boxes[np.abs(self.patches).argmax()].tolist()
        return (x0 + x1) / 2, (y0 + y1) / 2

    def words_at(self, x: float, y: float) -> np.ndarray | None:
        """(L,): each word's share in what matters at a point of the photo; None outside of it.

        Args:
            x, y: position in the photo's pixels.

        Raises:
            ValueError: the explanation was made without `word_patch`.
        """
        if self.word_patch is None:
            raise ValueError(
                "word_patch: got None; expected an explanation made with per_word=True."
            )
        x0, y0, x1, y1 = self.boxes.T
        inside = (x0 <= x) & (x < x1) & (y0 <= y) & (y < y1)
        return self.word_patch[:, inside].mean(1) if inside.any() else None

    def as_dict(self) -> dict[str, Any]:
        """The explanation as numbers, texts, lists and None, for JSON."""
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in vars(self).items()
        }
