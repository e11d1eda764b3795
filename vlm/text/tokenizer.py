"""From questions to token ids: one interface over learnt words and pretrained subwords."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Self
from unicodedata import normalize

import regex
import torch
from torch import Tensor, nn

from vlm.core.clean_text import clean_vocabulary
from vlm.core.padding import padded
from vlm.core.part import Configured

PAD, UNKNOWN = 0, 1
"""Ids of padding and of unknown words in a `WordTokenizer`."""

FUNCTION_WORDS = frozenset(
    """
    a an the this that these those
    i me my you your he him his she her it its we us our they them their
    what which who whom whose when where why how
    is are was were be been being am do does did have has had
    can could will would shall should may might must
    isn't aren't wasn't weren't don't doesn't didn't hasn't haven't can't couldn't won't wouldn't
    what's who's where's how's it's that's there's he's she's i'm you're they're
    not no any some all each every both one ones other
    and or but if than as so too very just also
    in on at of to for from with by about into over under
    there here
    """.split()  # noqa: SIM905  a list would take a line a word
)
"""English words that do not say what a question is about: articles, pronouns, question words,
auxiliary verbs, quantifiers, conjunctions, prepositions."""

# Unicode's properties for finding words (UAX 29), which `regex` has. The `\b` of its WORD flag
# fails on "'open'" and on a word that ends in a mark before an apostrophe.
_MARK = r"\p{WB=Extend}\p{WB=Format}\p{WB=ZWJ}"
_LETTER = r"\p{WB=ALetter}\p{WB=Hebrew_Letter}\p{WB=Numeric}_"
_WORD = regex.compile(
    rf"[{_LETTER}][{_LETTER}{_MARK}]*+(?:'[{_LETTER}][{_LETTER}{_MARK}]*+)*+"
    rf"|\p{{WB=Katakana}}[\p{{WB=Katakana}}{_MARK}]*+"
    rf"|[\p{{L}}\p{{N}}][{_MARK}]*+"
)


def split_words(question: str) -> list[str]:
    """Lower-cased words of a question by Unicode's rules, without punctuation.

    A letter keeps its marks, in all scripts. In text without spaces between words (Thai, Lao,
    Khmer, Burmese, Chinese, and kanji and hiragana of Japanese), each letter is a word, as Unicode
    prescribes without a dictionary. Dictionaries change between versions, and with them the ids
    that a checkpoint was trained with. Unlike in Unicode's rules, a full stop or comma always ends
    a word: "13.5" is "13" and "5".

    >>> split_words("What colour isn't  the bird's-eye?")
    ['what', 'colour', "isn't", 'the', "bird's", 'eye']
    >>> split_words("दिन क्या है?"), split_words("สีอะไร")
    (['दिन', 'क्या', 'है'], ['สี', 'อ', 'ะ', 'ไ', 'ร'])
    """
    # Phones type curly apostrophes: "isn't" is the same word with either.
    # An accent is one character or a mark of its own: composed, both are the same word.
    return _WORD.findall(normalize("NFC", question).lower().replace("\u2019", "'"))


def count_words(questions: Iterable[str], min_count: int = 1) -> list[str]:
    """The words of the training questions, most frequent first, ties in alphabetical order.

    Args:
        questions: the training questions.
        min_count: rarer words are left out and become unknown.
    """
    split = lru_cache(maxsize=1 << 16)(split_words)  # choices repeat from question to question
    counts = Counter(word for question in questions for word in split(question))
    return [w for w, n in sorted(counts.items(), key=lambda x: (-x[1], x[0])) if n >= min_count]


def check_max_length(max_length: int, special: int = 0) -> None:
    """Raise ValueError unless a question has room beside its special tokens."""
    if type(max_length) is not int or max_length <= special:
        raise ValueError(
            f"max_length: got {max_length!r}; expected an integer above {special}, the number of "
            f"special tokens."
        )


class Tokenizer(Configured, ABC):
    """Questions in, padded token ids out.

    Attributes:
        vocab_size: number of ids, padding and unknown included.
        max_length: longer questions are cut to so many tokens.
        vectors: (vocab_size, D) pretrained vectors of the ids, if it was made from such.

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
    vectors: Tensor | None = None
    _cut: Tensor

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        made = super().__new__(cls, *args, **kwargs)
        # In memory that loader workers share, so that one run counts, and warns, as one.
        made._cut = torch.zeros((), dtype=torch.long, device="cpu").share_memory_()
        return made

    @property
    def cut(self) -> int:
        """How many questions were cut so far, in this process and its loader workers."""
        return int(self._cut)

    @abstractmethod
    def ids(self, question: str) -> Sequence[int]:
        """Ids of one question, unpadded; an empty question may give none."""

    @abstractmethod
    def length(self, question: str) -> int:
        """How many ids it would have if nothing were cut."""

    @abstractmethod
    def unknown(self, question: str) -> list[str]:
        """The words of a question that the model has never seen."""

    def misses(self, question: str) -> bool:
        """Whether a question is beyond the model: no word is known, or unknown content words
        outnumber the known ones or are more than a third of all words.

        Content words are all but English function words. In other languages function words count as
        content, and the third decides.
        """
        words = split_words(question)
        unknown = split_words(" ".join(self.unknown(question)))
        known = [word for word in words if word not in unknown]
        missed = sum(word not in FUNCTION_WORDS for word in unknown)
        content = sum(word not in FUNCTION_WORDS for word in known)
        return not known or missed > content or 3 * missed > len(words)

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
        """A table of trainable vectors for the ids: the pretrained ones if there are, or random.

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
        words: the known words, the most frequent first, as `count_words` gives them.
        max_length: longer questions are cut to so many words.

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

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return WordTokenizer, (self.words, self.max_length)  # the cache does not pickle
