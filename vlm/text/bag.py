"""Bag of words."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from vlm.core.features import masked_mean
from vlm.core.validation import check_positive
from vlm.text.base import TextEncoder
from vlm.text.tokenizer import Tokenizer, WordTokenizer


class BagOfWords(TextEncoder):
    """The words of a question without their order.

    The result is b + MLP(b), where b is the mean of the word vectors. Each token is its word's
    vector plus MLP(b), so it depends on the other words too, and the mean of the tokens is
    `pooled`; an empty question gives MLP(0), a learned vector.

    Args:
        words: words that the encoder knows (`vlm.text.count_words` of the training questions).
        dim: width of the word vectors and of the result.
        hidden_dim: hidden width of the MLP.
        dropout: fraction of the word vectors' entries dropped in training, in [0, 1).
        tokenizer: tokenizer to use instead of `words`, for subwords or with word vectors.
        standardize: whether to standardise words and `pooled` over the batch, see `Standardize`.

    Example:
        >>> encoder = vlm.text.BagOfWords(words=["what", "color", "is", "it"], dim=64)
        >>> ids, mask = encoder.tokenizer(["what color is it?", "is it red?"])
        >>> encoder(ids, mask)
        Features(2 x 4 x 64, 3-4 real)
    """

    in_order = False

    def __init__(
        self,
        words: Sequence[str],
        dim: int = 64,
        hidden_dim: int = 64,
        dropout: float = 0.0,
        tokenizer: Tokenizer | None = None,
        standardize: bool = False,
    ) -> None:
        check_positive(dim=dim, hidden_dim=hidden_dim)
        tokenizer = tokenizer or WordTokenizer(words)
        super().__init__(dim, tokenizer, standardize)
        self.embedding = tokenizer.embedding(dim)
        self.dropout = nn.Dropout(dropout)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, dim))

    def encode(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        vectors = self.dropout(self.embedding(ids))  # (B, L, D)
        bag = masked_mean(vectors, mask)  # (B, D)
        context = self.mlp(bag)  # (B, D)
        return vectors + context[:, None], bag + context
