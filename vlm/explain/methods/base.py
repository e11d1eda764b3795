"""What every method offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

from torch import Tensor

from vlm.explain.case import Case, Cells
from vlm.model import VQAModel

LOST = "evidence lost without it"
"""Unit of what is found by leaving a part out."""


class Relevance(NamedTuple):
    """What a method found for B variants of a question; the first is the whole question.

    Attributes:
        cells: of the image, P of them.
        patches: (B, P) for each variant.
        words: (L,) for the whole question; None where the method tells nothing of words.
        word_patch: (L, P); None where the method has no map of its own for each word.
    """

    cells: Cells
    patches: Tensor
    words: Tensor | None = None
    word_patch: Tensor | None = None


class Method(ABC):
    """Base of the methods that find what an answer rests on.

    Attributes:
        name: name on the command line and in reports.
        unit: unit of the relevance, in words.
        signed: whether relevance can be below 0, as evidence against the answer.

    Example:
        >>> vqa = vlm.load("my_model")
        >>> list(vlm.explain.methods_for(vqa.model))[:3]
        ['occlusion', 'integrated_gradients', 'grad_cam']
        >>> issubclass(vlm.explain.Occlusion, vlm.explain.Method)
        True
    """

    name: ClassVar[str]
    unit: ClassVar[str] = "relevance"
    signed: ClassVar[bool] = True

    @classmethod
    def fits(cls, model: VQAModel) -> bool:
        """Whether the method can explain this model."""
        return True

    @abstractmethod
    def relevance(self, case: Case, kept: Tensor) -> Relevance:
        """Relevance of cells and words for the case's answer.

        Args:
            case: image, question and answer.
            kept: (B, L) bool, the words that remain in each variant of the question; the first row
                is all True. Variants are independent of each other.

        Raises:
            ValueError: a method that does not fit the model; the error names one that does.
        """
