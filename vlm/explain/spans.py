"""Where the tokens of a question stand in it."""

from __future__ import annotations

from collections.abc import Sequence
from unicodedata import normalize

from vlm.explain.explanation import Span

# What tokenizers add to mark the beginning or the end of words.
_MARKS = ("##", "\u0120", "\u2581", "</w>")


def token_spans(question: str, tokens: Sequence[str]) -> list[Span | None]:
    """(start, end) of each token in the question, in order; None for one that is not found.

    Case, accents in one character or two, curly apostrophes and the marks of word pieces are seen
    through. Special tokens ("[CLS]") and pieces of bytes are not found.
    """
    text, starts = _folded(question)
    spans: list[Span | None] = []
    begin = 0
    for token in tokens:
        for mark in _MARKS:
            token = token.removeprefix(mark).removesuffix(mark)
        folded = _folded(token)[0]
        found = text.find(folded, begin) if folded else -1
        if found < 0:
            spans.append(None)
            continue
        begin = found + len(folded)
        spans.append((starts[found], starts[begin]))
    return spans


def _folded(text: str) -> tuple[str, list[int]]:
    """The text as tokenizers compare it, and where in the original each of its characters and its
    end begin."""
    folded, starts, place = "", [], 0
    while place < len(text):
        end = place + 1
        # A mark may join the character before it into one.
        while end < len(text) and normalize("NFC", text[place : end + 1]) != normalize(
            "NFC", text[place:end]
        ) + normalize("NFC", text[end]):
            end += 1
        piece = normalize("NFC", text[place:end]).lower().replace("\u2019", "'")
        folded += piece
        starts += [place] * len(piece)
        place = end
    return folded, [*starts, len(text)]
