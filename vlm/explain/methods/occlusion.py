"""Occlusion: hide a part and see what becomes of the answer."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from vlm.core.validation import check_positive
from vlm.explain.case import Case, Cells
from vlm.explain.methods.base import LOST, Method, Relevance


class Occlusion(Method):
    """Evidence lost when a window of the image is painted over, or a word is left out.

    The model-free reference (Zeiler and Fergus 2014, arXiv 1311.2901; for words, Li et al. 2016,
    arXiv 1612.08220): it needs only the model's answers. The window is as large as one of the
    encoder's cells, is centred on each cell of the explanation, and is filled with the photo's
    median colour. A region is left out.

        relevance(cell) = evidence(image, question) - evidence(image without cell, question)

    Args:
        refine: number of places along each side of the encoder's cells at which the window is
            centred.

    Example:
        >>> vqa, method = vlm.load("my_model"), vlm.explain.Occlusion()
        >>> found = vlm.explain.explain(vqa, "photo.png", "what color is it?", method)
        >>> found.words, found.word_relevance.shape, found.patches.shape
        (['what', 'color', 'is', 'it'], (4,), (16,))
    """

    name: ClassVar[str] = "occlusion"
    unit: ClassVar[str] = LOST

    def __init__(self, refine: int = 1) -> None:
        check_positive(refine=refine)
        self.refine = refine

    def relevance(self, case: Case, kept: Tensor) -> Relevance:
        cells = case.cells(self.refine)
        hidden = case.places(_windows(cells, case.cells(1)))
        nothing = torch.zeros_like(hidden[:1])
        evidence = case.evidence(torch.cat((nothing, hidden)), kept)  # (1 + P, B)
        return Relevance(cells, (evidence[:1] - evidence[1:]).T)


def _windows(cells: Cells, own: Cells) -> Tensor:
    """Boxes of the size of the encoder's own cells around the middle of each cell."""
    if cells.grid is None or own.grid is None:
        return cells.boxes
    rows, columns = own.grid
    middle = (cells.boxes[:, :2] + cells.boxes[:, 2:]) / 2
    half = cells.boxes.new_tensor([0.5 / columns, 0.5 / rows])
    return torch.cat((middle - half, middle + half), 1)
