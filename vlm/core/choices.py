"""The candidate answers of multiple-choice questions, as a part of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, islice
from typing import NamedTuple

import torch
from torch import Tensor

from vlm.core.features import Features
from vlm.core.padding import distinct, padded


class Choices(NamedTuple):
    """The candidates of Q questions; each different text is there (and encoded) once.

    Attributes:
        words: (K, L) int64 token ids of the different texts, padded at the end.
        words_mask: (K, L) bool, True = a real token.
        text_index: (Q, N) int64 in [0, K), the text of each candidate; 0 in the padding.
        mask: (Q, N) bool, True = a real candidate; N is the most that a question has.
        texts: the candidates of each question, in the order they were given.
        features: features of the K texts, once `VQAModel` has encoded them.
    """

    words: Tensor
    words_mask: Tensor
    text_index: Tensor
    mask: Tensor
    texts: list[list[str]]
    features: Features | None = None


def make_choices(
    choices: Sequence[Sequence[str]],
    encode: Callable[[Sequence[str]], tuple[Tensor, Tensor]],
) -> Choices:
    """Put the candidates of Q questions, one at least of each, together. `encode` is a tokenizer: K
    texts -> token ids and mask, both (K, L).

    Raises:
        ValueError: a question without choices.
    """
    for number, given in enumerate(choices, start=1):
        if not given:
            raise ValueError(
                f"choices of question {number}: got {given!r}; expected texts to choose from."
            )
    # Questions often have the same choices, and different lists the same texts.
    lists, list_of = distinct(map(tuple, choices))
    texts, text_of = distinct(chain.from_iterable(lists))
    numbers = iter(text_of)
    index, mask = padded([list(islice(numbers, len(given))) for given in lists])
    rows = torch.tensor(list_of, dtype=torch.long)
    words, words_mask = encode(texts)
    return Choices(
        words=words,
        words_mask=words_mask,
        text_index=index[rows],
        mask=mask[rows],
        texts=[list(given) for given in choices],
    )
