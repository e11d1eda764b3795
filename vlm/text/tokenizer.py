"""From questions to token ids: one interface over learned words and pretrained subwords."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from vlm.core.clean_text import clean_vocabulary
from vlm.core.padding import padded
from vlm.core.part import Configured
from vlm.text.words import PAD, UNKNOWN, misses, split_words


def check_max_length(max_length: int, special: int = 0) -> None:
    """Raise ValueError unless a question has room beside its special tokens."""
    if type(max_length) is not int or max_length <= special:
        raise ValueError(
            f"max_length: got {max_length!r}; expected an integer above {special}, the number of "
            f"special tokens."
        )


class Tokenizer(Configured, ABC):
    """Base of the tokenizers, from questions to padded token ids.

    Attributes:
        vocab_size: number of ids, including those of padding and unknown words.
        max_length: number of tokens to which longer questions are truncated.
        keeps: which of its tokens a longer question keeps, "first" or "last".
        vectors: (vocab_size, D) pretrained vectors of the ids; None without such vectors.

    Example:
        >>> tokenizer = vlm.text.WordTokenizer(["what", "color", "is", "it"])
        >>> isinstance(tokenizer, vlm.text.Tokenizer)
        True
        >>> ids, mask = tokenizer(["what color is it?", "red?"])
        >>> ids.shape, mask.sum(1)
        (torch.Size([2, 4]), tensor([4, 1]))
    """

    vocab_size: int
    max_length: int
    keeps: ClassVar[str] = "first"
    unit: ClassVar[str] = "tokens"
    vectors: Tensor | None = None
    _cut: Tensor

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        made = super().__new__(cls, *args, **kwargs)
        # In memory that forked workers share, so that one run counts, and warns, as one.
        made._cut = torch.zeros((), dtype=torch.long, device="cpu").share_memory_()
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """From its arguments: a cache of questions does not pickle."""
        arguments = dict(self.arguments)
        if "max_length" in arguments:  # an encoder with fewer positions may have lowered it
            arguments["max_length"] = self.max_length
        return partial(type(self), **arguments), ()

    @property
    def cut(self) -> int:
        """The number of questions truncated so far, in this process and its forked workers."""
        return int(self._cut)

    @abstractmethod
    def ids(self, question: str) -> Sequence[int]:
        """Ids of one question, unpadded; an empty question may give none."""

    @abstractmethod
    def length(self, question: str) -> int:
        """The number of ids of a question before truncation."""

    @abstractmethod
    def unknown(self, question: str) -> list[str]:
        """The words of a question that the model has never seen."""

    def misses(self, question: str) -> bool:
        """Whether a question is beyond the model: see `vlm.text.words.misses`."""
        return misses(question, self.unknown(question))

    def own(self, question: str) -> slice:
        """Which of `ids`, after truncation, are the question's own, and not of a prompt around
        it."""
        return slice(0, len(self.ids(question)[: self.max_length]))

    @property
    @abstractmethod
    def pad_id(self) -> int:
        """The id that fills the end of shorter questions."""

    @abstractmethod
    def tokens(self, question: str) -> list[str]:
        """The text of each token that the model reads, for showing attention."""

    def __call__(self, questions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids (B, L) int64 and mask (B, L) bool, padded at the end, L the longest of the batch."""
        rows = [self.ids(question)[: self.max_length] for question in questions]
        # Those that are full may be cut.
        full = (q for q, row in zip(questions, rows, strict=True) if len(row) == self.max_length)
        if cut := [question for question in full if self.length(question) > self.max_length]:
            self._count(cut)
        return padded(rows, self.pad_id, least=1)

    def _count(self, cut: Sequence[str]) -> None:
        """Warn of questions that are cut: of the first, and of each tenfold since."""
        before = self.cut
        self._cut += len(cut)
        if not before or self.cut >= 10 ** len(str(before)):
            warnings.warn(
                f"Questions cut to {self.max_length} tokens so far: {self.cut}, such as "
                f"{cut[0][:60]!r}.",
                stacklevel=3,
            )

    def embedding(self, dim: int) -> nn.Embedding:
        """A table of trainable vectors for the ids: the pretrained ones if there are any, otherwise
        random ones.

        Raises:
            ValueError: pretrained vectors of another width.
        """
        if self.vectors is not None and self.vectors.shape[1] != dim:
            raise ValueError(
                f"dim: got word vectors {dim} wide; those of the tokenizer have "
                f"{self.vectors.shape[1]}. Set the encoder's width of word vectors to that."
            )
        table = nn.Embedding(self.vocab_size, dim)
        if self.vectors is not None:
            table.weight.data.copy_(self.vectors)
        return table


class WordTokenizer(Tokenizer):
    """One id per word. Id 0 is padding, id 1 any unknown word, then `words` in their order.

    Args:
        words: words that the tokenizer knows, the most frequent first, as from `count_words`.
        max_length: number of words to which longer questions are truncated.

    Raises:
        ValueError: a word that occurs twice.

    Example:
        >>> tokenizer = vlm.text.WordTokenizer(["what", "color", "is", "it"])
        >>> ids, mask = tokenizer(["what color is it?", "is it red?"])
        >>> mask
        tensor([[ True,  True,  True,  True],
                [ True,  True,  True, False]])
        >>> tokenizer.unknown("is it red?")
        ['red']
    """

    pad_id = PAD
    unit: ClassVar[str] = "words"

    def __init__(self, words: Sequence[str], max_length: int = 64) -> None:
        check_max_length(max_length)
        self.words, self.max_length = clean_vocabulary(words), max_length
        self.vocab_size = len(self.words) + 2
        self._ids = {word: i for i, word in enumerate(self.words, start=2)}
        if len(self._ids) != len(self.words):
            twice = [w for w, n in Counter(self.words).items() if n > 1]
            raise ValueError(f"words: got {twice[0]!r} more than once; expected each word once.")
        # Questions repeat (easy-VQA asks 107 different ones): splitting each once is enough.
        self._cached = lru_cache(maxsize=1 << 16)(self._look_up)

    def _look_up(self, question: str) -> tuple[int, ...]:
        return tuple(self._ids.get(word, UNKNOWN) for word in self._split(question))

    def _split(self, question: str) -> list[str]:
        return split_words(question)

    def ids(self, question: str) -> Sequence[int]:
        return self._cached(question)

    def length(self, question: str) -> int:
        return len(self._cached(question))

    def unknown(self, question: str) -> list[str]:
        return [word for word in self._split(question) if word not in self._ids]

    def tokens(self, question: str) -> list[str]:
        return self._split(question)[: self.max_length]
