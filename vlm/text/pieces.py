"""Word pieces of a question, from a tokenizer of the `tokenizers` library.

Nothing here needs torch: an exported model reads questions by it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from json import loads
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPACE = "\u0120"
"""What stands for a space in byte-level pieces."""


def encode_pieces(
    tokenizer: Tokenizer, question: str, max_length: int
) -> tuple[tuple[int, ...], int]:
    """Ids of a question with its special tokens, cut to `max_length`, and their number uncut."""
    # Cut here, where special tokens can be spared, and by the length of now: a model with
    # fewer positions may have lowered it.
    encoding = tokenizer.encode(question, add_special_tokens=False)
    special = tokenizer.num_special_tokens_to_add(is_pair=False)
    length = len(encoding.ids) + special
    encoding.truncate(max_length - special)
    return tuple(tokenizer.post_process(encoding).ids), length


def unknown_id(tokenizer: Tokenizer) -> int | None:
    """The id of what the tokenizer cannot spell; None if there is none."""
    model = loads(tokenizer.to_str())["model"]
    token = model.get("unk_token")
    return model.get("unk_id") if token is None else tokenizer.token_to_id(token)


def unknown_pieces(tokenizer: Tokenizer, question: str, unknown: int | None) -> list[str]:
    """The pieces of a question that have the id `unknown`."""
    encoding = tokenizer.encode(question, add_special_tokens=False)
    pieces = zip(encoding.ids, encoding.offsets, strict=True)
    return [question[start:end] for i, (start, end) in pieces if i == unknown]


def piece_texts(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """The text of each piece, with the marks of its tokenizer; of a part of a character, U+FFFD."""
    pieces = [tokenizer.id_to_token(i) or "" for i in ids]
    if "ByteLevel" not in str(loads(tokenizer.to_str())["decoder"]):
        return pieces
    # Byte by byte, a letter that is not English would be two or more others.
    return [
        SPACE * piece.startswith(SPACE) + tokenizer.decode([i], skip_special_tokens=False).strip()
        for i, piece in zip(ids, pieces, strict=True)
    ]
