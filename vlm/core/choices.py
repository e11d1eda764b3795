"""The candidate answers of multiple-choice questions, as a part of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, islice
from typing import NamedTuple

import torch
from torch import Tensor

from vlm.core.features import Features
from vlm.core.padding import distinct, padded
from vlm.core.validation import shorten


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


def mistake_in(choices: Sequence[object]) -> str | None:
    """What is wrong with the candidates of one question, as the rest of a sentence.

    They are compared to the letter, as answers are.

    >>> mistake_in(["a cat", "a dog"])
    >>> mistake_in(["a cat", "a cat"])
    "got the choice 'a cat' twice; expected each once."
    """
    mistake = mistake_among(choices)
    if mistake is None and len(choices) < 2:
        got = shorten(list(choices))
        return f"got the choices {got}; expected at least two, or none."
    return mistake


def mistake_among(choices: Sequence[object]) -> str | None:
    """What is wrong with the candidates of one question, where a single one is allowed.

    >>> mistake_among(["a cat"])
    >>> mistake_among(["a cat", ""])
    "got an empty choice in ['a cat', '']; expected some text in each."
    """
    for text in choices:
        if not isinstance(text, str):
            return f"got the choice {text!r:.80}; expected texts."
        if not text.strip():
            return f"got an empty choice in {shorten(list(choices))}; expected some text in each."
    if len(set(choices)) < len(choices):
        twice = next(text for text in choices if choices.count(text) > 1)
        return f"got the choice {twice!r:.80} twice; expected each once."
    return None
