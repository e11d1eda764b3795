"""What every text encoder offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from vlm.core.features import Features
from vlm.core.layers import numbered_layers
from vlm.core.part import Part
from vlm.text.standardize import Standardize
from vlm.text.tokenizer import Tokenizer


class TextEncoder(Part, ABC):
    """Base of the text encoders: token ids (B, L) and mask (B, L) in, `Features` of words out.

    Every parameter affects both `tokens` and `pooled`, so all are trained, whichever of the two a
    fusion reads. Padding is at the end.

    Attributes:
        dim: width of the tokens.
        tokenizer: tokenizer that makes the ids for this encoder.
        in_order: whether the order of the words matters.
        standardize: module that standardises tokens and `pooled`, or None.

    Example:
        >>> class Words(vlm.text.TextEncoder):
        ...     def __init__(self, words, dim=64):
        ...         super().__init__(dim, vlm.text.WordTokenizer(words))
        ...         self.vectors = torch.nn.Embedding(self.tokenizer.vocab_size, dim)
        ...     def encode(self, ids, mask):
        ...         tokens = self.vectors(ids)
        ...         return tokens, vlm.masked_mean(tokens, mask)
        >>> encoder = Words(["what", "color", "is", "it"])
        >>> encoder(*encoder.tokenizer(["what color is it?", "is it red?"]))
        Features(2 x 4 x 64, 3-4 real)
    """

    in_order: ClassVar[bool] = True
    standardize: Standardize | None

    def __init__(self, dim: int, tokenizer: Tokenizer, standardize: bool = False) -> None:
        super().__init__()
        self.dim, self.tokenizer = dim, tokenizer
        self.standardize = Standardize(dim) if standardize else None

    def layer_names(self) -> list[list[str]]:
        return numbered_layers(self)

    @abstractmethod
    def encode(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Ids (B, L), mask (B, L) bool -> tokens (B, L, dim), pooled (B, dim)."""

    def forward(self, ids: Tensor, mask: Tensor, questions: bool = True) -> Features:
        """Encode the ids of `tokenizer`.

        Args:
            ids: (B, L) int64.
            mask: (B, L) bool, True for a real token; a row may have none (an empty question).
            questions: whether the texts are questions rather than choices (see `Standardize`).

        Raises:
            ValueError: shapes or types that do not fit.
        """
        if ids.ndim != 2 or mask.shape != ids.shape or mask.dtype != torch.bool:
            raise ValueError(
                f"ids, mask: got shapes {tuple(ids.shape)} and {tuple(mask.shape)} ({mask.dtype}); "
                f"expected both (B, L) and a bool mask with True = a real token."
            )
        # Whatever id stands in the padding, it must be one that the embedding has.
        ids = ids.masked_fill(~mask, self.tokenizer.pad_id)
        tokens, pooled = self.encode(ids, mask)
        features = Features(tokens, mask, pooled)
        return features if self.standardize is None else self.standardize(features, questions)

    if TYPE_CHECKING:
        __call__ = forward
