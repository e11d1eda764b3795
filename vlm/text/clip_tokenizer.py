"""The tokenizer of CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from vlm.text.tokenizer import Tokenizer, check_max_length


class ClipTokenizer(Tokenizer):
    """CLIP's byte pairs (arXiv 2103.00020), from open_clip, which can encode any text.

    Every question is between `<start_of_text>` and `<end_of_text>`. A question that is too long
    loses its last pieces and keeps both.

    Args:
        max_length: number of tokens, including these two, to which longer questions are truncated.
        clean: preprocessing of the text: "lower" lowers the case, "canonicalize" also removes
            punctuation, "whitespace" does neither.

    Raises:
        ValueError: a `max_length` without room for a question, or an unknown `clean`.

    Example:
        >>> tokenizer = vlm.text.ClipTokenizer(max_length=16)
        >>> ids, mask = tokenizer(["what color is it?", "is it red?"])
        >>> ids.shape, mask.sum(1)
        (torch.Size([2, 7]), tensor([7, 6]))
    """

    pad_id = 0

    def __init__(
        self,
        max_length: int = 77,
        clean: Literal["lower", "canonicalize", "whitespace"] = "lower",
    ) -> None:
        check_max_length(max_length, special=2)
        from open_clip import SimpleTokenizer

        self._backend = SimpleTokenizer(clean=clean)
        self.max_length, self.vocab_size = max_length, self._backend.vocab_size
        self._cached = lru_cache(maxsize=1 << 16)(self._encode)

    def _encode(self, question: str) -> tuple[int, ...]:
        return tuple(self._backend.encode(question))

    def ids(self, question: str) -> Sequence[int]:
        pieces = self._cached(question)[: self.max_length - 2]
        return (self._backend.sot_token_id, *pieces, self._backend.eot_token_id)

    def length(self, question: str) -> int:
        return len(self._cached(question)) + 2

    def unknown(self, question: str) -> list[str]:
        return []

    def tokens(self, question: str) -> list[str]:
        return [self._backend.decode([i]).strip() for i in self.ids(question)]
