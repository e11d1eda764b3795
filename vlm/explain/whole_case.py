"""A question to a model that is asked as it is: only the likelihood of its answers is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlm.adapters.image_text_to_text import ImageTextToText
from vlm.core.clean_text import clean_text
from vlm.explain.case import Case, Cells, NeverEnded
from vlm.heads.generation.head import CUT
from vlm.image.base import grid_boxes

CELLS = 6
"""Cells along the longer side: each is a question to a model that may take a second for it."""
LARGEST = 1024
"""Longer side, in pixels, of the copy that is painted over."""


class WholeCase(Case):
    """A case whose evidence is the log-likelihood of the answer; words are those between spaces.

    Args:
        vqa: the model.
        image: the photo.
        question: the question, as it was asked.
        answer: answer to explain; None for the model's own.
        choices: choices that the model's own answer is picked from.
    """

    per_word = False

    def __init__(
        self,
        vqa: ImageTextToText,
        image: Image.Image,
        question: str,
        answer: str | None = None,
        choices: Sequence[str] | None = None,
    ) -> None:
        self.vqa, self.image_size = vqa, image.size
        self.question, self.device = clean_text(question), torch.device("cpu")
        self.ranked, self.calibration = [], None
        if answer is None:
            own = vqa.answer(image, question, 1, choices)
            answer, self.ranked = own.text, own.top
            if choices is None and answer.endswith(CUT):
                raise NeverEnded(answer)
        elif choices is not None:
            self.ranked = vqa.answer(image, question, len(choices), choices).top
        else:
            found = vqa.log_likelihood([image], [question], answer)
            self.ranked = [(clean_text(answer), float(found[0].exp()))]
            self.ranks_all = False
        self.answer = clean_text(answer)
        self.tokens = self.question.split()
        self.ids = torch.arange(len(self.tokens))
        self.asked = slice(0, len(self.tokens))
        copy = image.copy()
        copy.thumbnail((LARGEST, LARGEST))
        # Without torchvision, which is in an extra.
        self.images: Any = torch.from_numpy(np.array(copy)).permute(2, 0, 1)[None]

    @property
    def warnings(self) -> list[str]:
        return []

    @property
    def is_guess(self) -> bool:
        return False

    def cells(self, refine: int = 1) -> Cells:
        height, width = self.place
        rows, columns = (
            min(max(1, round(refine * CELLS * side / max(height, width))), side)
            for side in (height, width)
        )
        return Cells(grid_boxes(rows, columns, self.device), (rows, columns))

    def in_photo(self, boxes: Tensor) -> Tensor:
        return boxes * boxes.new_tensor(self.image_size).repeat(2)

    def evidence(self, hidden: Tensor | None = None, kept: Tensor | None = None) -> Tensor:
        if hidden is None:
            hidden = torch.zeros(1, *self.place, dtype=torch.bool)
        if kept is None:
            kept = torch.ones(1, len(self.ids), dtype=torch.bool)
        words = np.array(self.tokens, dtype=object)
        questions = [" ".join(words[row.numpy()]) for row in kept]
        found = []
        for row in hidden:  # one after the other: together they would fill memory
            image = Image.fromarray(self.hide(row[None])[0].permute(1, 2, 0).numpy())
            found.append(self.vqa.log_likelihood([image] * len(questions), questions, self.answer))
        return torch.stack(found).cpu()
