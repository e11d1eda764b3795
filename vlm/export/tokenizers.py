"""Questions to ids, from `tokenizer.json`: the same as the model's tokenizer. Needs no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from vlm.export.manifest import ExportError
from vlm.text.pieces import encode_pieces, unknown_id, unknown_pieces
from vlm.text.words import PAD, UNKNOWN, misses, split_contractions, split_words


class QuestionReader(ABC):
    """What `vlm.text.Tokenizer` is to a model; the methods are those."""

    max_length: int
    keeps: ClassVar[str] = "first"
    unit: ClassVar[str] = "tokens"
    pad_id: int = PAD

    @abstractmethod
    def ids(self, question: str) -> Sequence[int]: ...

    @abstractmethod
    def length(self, question: str) -> int: ...

    @abstractmethod
    def unknown(self, question: str) -> list[str]: ...

    def misses(self, question: str) -> bool:
        return misses(question, self.unknown(question))

    def __call__(self, questions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids (B, L) int64 and mask (B, L) bool, padded at the end."""
        rows = [self.ids(question)[: self.max_length] for question in questions]
        shape = len(rows), max([1, *map(len, rows)])
        ids, mask = np.full(shape, self.pad_id, np.int64), np.zeros(shape, bool)
        for row, given in enumerate(rows):
            ids[row, : len(given)], mask[row, : len(given)] = given, True
        return ids, mask


class WordReader(QuestionReader):
    """Of `WordTokenizer` and, with its way to split, `VectorTokenizer`."""

    unit: ClassVar[str] = "words"

    def __init__(self, words: Sequence[str], max_length: int, contractions: bool) -> None:
        self.max_length = max_length
        self._ids = {word: i for i, word in enumerate(words, start=2)}
        self._split: Callable[[str], list[str]] = split_words
        if contractions:
            self._split = lambda question: split_contractions(question, self._ids)

    def ids(self, question: str) -> Sequence[int]:
        return [self._ids.get(word, UNKNOWN) for word in self._split(question)]

    def length(self, question: str) -> int:
        return len(self._split(question))

    def unknown(self, question: str) -> list[str]:
        return [word for word in self._split(question) if word not in self._ids]


class PieceReader(QuestionReader):
    """Of `SubwordTokenizer`."""

    def __init__(self, json: str, max_length: int, pad_id: int) -> None:
        self._backend = read_pieces(json, "tokenizer.json", "reads")
        self.max_length, self.pad_id = max_length, pad_id
        self._backend.no_padding()
        self._backend.no_truncation()
        self._unknown = unknown_id(self._backend)

    def ids(self, question: str) -> Sequence[int]:
        return encode_pieces(self._backend, question, self.max_length)[0]

    def length(self, question: str) -> int:
        return encode_pieces(self._backend, question, self.max_length)[1]

    def unknown(self, question: str) -> list[str]:
        return unknown_pieces(self._backend, question, self._unknown)


READERS: dict[str, type[QuestionReader]] = {"words": WordReader, "pieces": PieceReader}
"""By the `kind` in `tokenizer.json`; its other keys are the arguments."""


def make_decoder(tokenizer: str) -> Callable[[list[int]], str]:
    """The function from ids to a written answer: `bytes`, or the JSON of a Hugging Face tokenizer.

    Raises:
        ExportError: tokenizers is not installed.
    """
    if tokenizer == "bytes":
        return lambda ids: bytes(i for i in ids if i < 256).decode(errors="replace")
    backend = read_pieces(tokenizer, "manifest.json: decoder.tokenizer", "writes")
    return lambda ids: backend.decode(ids, skip_special_tokens=True).strip()


def read_pieces(json: str, place: str, does: str) -> Any:
    try:
        from vlm.pretrained.tokenizer_growth import read_tokenizer

        return read_tokenizer(json, place)
    except ImportError as error:
        raise ExportError(
            f"{place}: this model {does} word pieces, which needs the package tokenizers: "
            f"pip install tokenizers"
        ) from error


def make_reader(stored: dict[str, Any]) -> QuestionReader:
    """The reader that `tokenizer.json` describes.

    Raises:
        ExportError: a kind that this version does not know, or tokenizers is not installed.
    """
    arguments = dict(stored)
    kind = arguments.pop("kind", None)
    if kind not in READERS:
        raise ExportError(
            f"tokenizer.json: got the kind {kind!r:.40}; expected one of {', '.join(READERS)}."
        )
    return READERS[kind](**arguments)
