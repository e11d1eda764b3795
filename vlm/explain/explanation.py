"""What an explanation says, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Span = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Explanation:
    """The relevance of each word and of each cell of the image for one answer.

    If the method gives signs, relevance above 0 is evidence for the answer, and below 0 against it.
    Each method has its own unit, so compare relevances only within one explanation. Shapes: L
    words, P cells.

    Attributes:
        question: the question, as it was asked.
        answer: answer that is explained.
        own_answer: the model's own answer; None where it was not computed (a model that is used in
            its own format, and an answer of yours without choices).
        probability: probability in [0, 1] of this answer; None for an answer that the model does
            not rank, such as a free text other than its best ones.
        calibrated: whether the probability was calibrated (`vlm calibrate`).
        evidence: the head's evidence for the answer, a logit or a log-likelihood.
        words: the L tokens of the question, as the model reads them.
        spans: place of each token in `question`, (start, end); None for a token that is not in it.
        word_relevance: (L,) float32, relevance of each word in `word_unit`.
        boxes: (P, 4) float32: x0, y0, x1, y1 of each cell in the photo's pixels. Cells of a model
            that pads may lie outside the photo. For region features, whose photo is unknown, from 0
            to 1.
        grid: (rows, columns) of the cells, which are in row order; None for regions.
        patches: (P,) float32, the relevance of each cell, in `unit`.
        word_patch: (L, P) float32, each word's share of the cells' relevance; None if not
            requested.
        image_size: (width, height) of the photo in pixels; (1, 1) for region features.
        method: name of the method.
        unit: unit of the cells' relevance, in words.
        signed: whether cells can be evidence against the answer; otherwise the map has no sign.
        word_unit: unit of the words' relevance.
        words_signed: whether words can be evidence against the answer.
        warnings: reasons to doubt the answer, one sentence each.
        is_guess: whether the question is beyond the model (`vlm.text.Tokenizer.misses`), so the
            answer means nothing.
        seconds: time that the explanation took.

    Example:
        >>> found = vlm.explain.explain(vlm.load("my_model"), "photo.png", "what color is it?")
        >>> found.grid, found.patches.shape, found.word_patch.shape
        ((4, 4), (16,), (4, 16))
    """

    question: str
    answer: str
    own_answer: str | None
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
        """(x, y) in the photo: the middle of the most relevant cell, for or against the answer."""
        x0, y0, x1, y1 = self.boxes[np.abs(self.patches).argmax()].tolist()
        return (x0 + x1) / 2, (y0 + y1) / 2

    def words_at(self, x: float, y: float) -> np.ndarray | None:
        """(L,): each word's share of the relevance at a point of the photo; None outside the photo.

        Args:
            x, y: position in the photo's pixels.

        Raises:
            ValueError: an explanation without `word_patch`.
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
