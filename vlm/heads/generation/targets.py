"""What a head that writes its answers learns from: the annotators' texts as ids."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vlm.core.clean_text import clean_text
from vlm.core.padding import distinct, padded
from vlm.core.validation import shorten
from vlm.heads.generation.tokenizer import AnswerTokenizer
from vlm.image.as_text import is_picture


class AnswerTexts(NamedTuple):
    """What the annotators of Q questions wrote.

    Attributes:
        ids: (Q, A, T) int64: the different answers of a question, the most frequent first, each
            with its end, and filled up with that.
        mask: (Q, A, T) bool, True = a token of the answer, its end included.
        counts: (Q, A) float: annotators who gave each answer; 0 where a question has fewer.
    """

    ids: Tensor
    mask: Tensor
    counts: Tensor


class AnswerEncoder:
    """Annotators' answers in, `AnswerTexts` out.

    Of an answer that is longer than the decoder can write, the beginning is kept, without an end:
    it can be judged that far, and nothing is learned about where to stop.

    With `all_answers` all of a question's answers are kept, else the most frequent (the first on a
    tie).
    """

    def __init__(self, tokenizer: AnswerTokenizer, max_length: int, all_answers: bool) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        self.all_answers = all_answers

    def __call__(
        self, answers: Sequence[Sequence[str]], choices: Sequence[Sequence[str]] | None = None
    ) -> AnswerTexts:
        # Questions of a batch often have the same answers: all different lists are encoded once.
        different, row_of = distinct(map(tuple, answers))
        most = [Counter(given).most_common(None if self.all_answers else 1) for given in different]
        kept = max(map(len, most), default=1)
        texts = [
            text
            for row in most
            for text in [*(self.ids(answer) for answer, _ in row), *[[]] * (kept - len(row))]
        ]
        ids, mask = padded(texts, self.tokenizer.end, least=1)
        shape = len(most), kept, ids.shape[1]
        counts = padded([[n for _, n in row] for row in most], least=kept)[0].float()
        index = torch.tensor(row_of, dtype=torch.long)
        return AnswerTexts(ids.view(shape)[index], mask.view(shape)[index], counts[index])

    def ids(self, answer: str) -> list[int]:
        """Ids of one answer with its end, cut to `max_length`."""
        return [*self.tokenizer.encode(answer), self.tokenizer.end][: self.max_length]

    def check(self, answers: Iterable[Sequence[str] | None], what: str, cut: bool = False) -> None:
        """Refuse answers that the tokenizer cannot write or, unless they are to be cut, that are
        longer than the decoder can write; `what` they are is for the message."""
        counts = Counter(answer for given in answers for answer in given or ())
        lengths = {answer: len(self.tokenizer.encode(answer)) + 1 for answer in counts}
        long = {answer: n for answer, n in counts.items() if lengths[answer] > self.max_length}
        if long and not cut:
            longest = max(long, key=lengths.__getitem__)
            raise ValueError(
                f"max_length: got {self.max_length}, but {sum(long.values()):,} of the {what} "
                f"have more tokens, up to {lengths[longest]:,} ({shorten(longest, 45)}); raise the "
                f"decoder's max_length, or leave them out."
            )
        written = {
            answer: clean_text(self.tokenizer.decode(self.tokenizer.encode(answer)))
            for answer in counts
            if not is_picture(answer)
        }
        if other := [answer for answer, text in written.items() if text != clean_text(answer)]:
            most = max(other, key=counts.__getitem__)
            warnings.warn(
                f"{sum(counts[answer] for answer in other):,} of the {what} cannot be written as "
                f"they are: {shorten(most, 45)} becomes {shorten(written[most], 45)}, and a metric "
                f"may call that wrong. Another tokenizer, such as ByteTokenizer, writes any text.",
                stacklevel=2,
            )
