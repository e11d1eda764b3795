"""The word vectors of a text encoder by themselves."""

from __future__ import annotations

from torch import Tensor, nn

from vlm.core.features import masked_mean
from vlm.text.base import TextEncoder
from vlm.text.tokenizer import Tokenizer

VECTORS = "embedding.weight"
"""What the encoders that take a table of word vectors call it."""


class WordVectors(TextEncoder):
    """The mean of a sentence's word vectors.

    Stands for an encoder of which only these were trained before (`BagOfWords` and others on
    GloVe): what it makes of them began at random, so that there is nothing to forget.

    Args:
        tokenizer: of the encoder.
        vectors: (vocab_size, D), a row for each of its ids.
    """

    def __init__(self, tokenizer: Tokenizer, vectors: Tensor) -> None:
        super().__init__(vectors.shape[1], tokenizer)
        self.embedding = nn.Embedding.from_pretrained(vectors)

    def encode(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        tokens: Tensor = self.embedding(ids)
        return tokens, masked_mean(tokens, mask)

    def layer_names(self) -> list[list[str]]:
        return [[VECTORS]]
