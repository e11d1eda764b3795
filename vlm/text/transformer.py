"""A transformer from scratch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vlm.core.features import masked_mean
from vlm.core.validation import check_divides, check_positive
from vlm.pretrained.attention_masks import always_mask
from vlm.text.base import TextEncoder
from vlm.text.tokenizer import Tokenizer, WordTokenizer


class Transformer(TextEncoder):
    """A BERT (arXiv 1810.04805) with random weights; `pooled` is the mean of its words.

    Args:
        words: words that the encoder knows (`vlm.text.count_words` of the training questions).
        dim: width of the layers and of the result.
        num_layers: number of layers.
        num_heads: attention heads; divides `dim`.
        feedforward_dim: hidden width of the feed-forward networks.
        dropout: fraction dropped in training from attention weights and branches, in [0, 1).
        max_length: number of positions; the tokenizer truncates longer questions.
        tokenizer: tokenizer to use instead of `words`, for subwords.
        standardize: whether to standardise words and `pooled` over the batch, see `Standardize`.

    Raises:
        ValueError: a size that is not positive, heads that do not divide `dim`, or a tokenizer that
            allows longer questions than there are positions.

    Example:
        >>> encoder = vlm.text.Transformer(words=["what", "color", "is", "it"], dim=64)
        >>> ids, mask = encoder.tokenizer(["what color is it?", "is it red?"])
        >>> encoder(ids, mask)
        Features(2 x 4 x 64, 3-4 real)
    """

    def __init__(
        self,
        words: Sequence[str],
        dim: int = 128,
        num_layers: int = 2,
        num_heads: int = 4,
        feedforward_dim: int = 256,
        dropout: float = 0.0,
        max_length: int = 64,
        tokenizer: Tokenizer | None = None,
        standardize: bool = False,
    ) -> None:
        check_positive(num_layers=num_layers, feedforward_dim=feedforward_dim)
        check_positive(max_length=max_length)
        check_divides("dim", dim, "num_heads", num_heads)
        from transformers import BertConfig, BertModel

        tokenizer = tokenizer or WordTokenizer(words, max_length)
        if tokenizer.max_length > max_length:
            raise ValueError(
                f"tokenizer: got max_length={tokenizer.max_length}, with {max_length} positions "
                f"here; lower the tokenizer's max_length or raise this one."
            )
        super().__init__(dim, tokenizer, standardize)
        config = BertConfig(
            vocab_size=tokenizer.vocab_size,
            hidden_size=dim,
            num_hidden_layers=num_layers,
            num_attention_heads=num_heads,
            intermediate_size=feedforward_dim,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            max_position_embeddings=max_length,
            type_vocab_size=1,
            pad_token_id=tokenizer.pad_id,
        )
        self.model = BertModel(config, add_pooling_layer=False)
        always_mask(self.model)

    def encode(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.model(ids, attention_mask=attended(mask)).last_hidden_state  # (B, L, D)
        return tokens, masked_mean(tokens, mask)


def attended(mask: Tensor) -> Tensor:
    """Mask (B, L) bool -> Hugging Face's, 1 = keep.

    A row with nothing real keeps its first position: attention to nothing would be NaN.
    """
    first = torch.arange(mask.shape[1], device=mask.device) == 0
    return (mask | (first & ~mask.any(1, keepdim=True))).long()
