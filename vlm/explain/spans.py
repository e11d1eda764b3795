"""Where the tokens of a question stand in it."""

from __future__ import annotations

from collections.abc import Sequence
from unicodedata import category, normalize

import regex

from vlm.explain.explanation import Span
from vlm.text.words import LETTER

# What tokenizers add to mark the beginning or the end of words.
_MARKS = ("##", "\u0120", "\u2581", "</w>")
_SPACES = ("\u0120", "\u2581")
_INSIDE = regex.compile(f"[{LETTER}][{LETTER}]")


def token_spans(question: str, tokens: Sequence[str]) -> list[Span | None]:
    """(start, end) of each token in the question, in order; None for one that is not found.

    Case, accents, curly apostrophes and the marks of word pieces are seen through. Special tokens
    ("[CLS]") and pieces of bytes are not found.
    """
    text, starts = _folded(question)
    spans: list[Span | None] = []
    begin = 0
    marked = any(token.startswith(_SPACES) for token in tokens)
    closed = any(token.endswith("</w>") for token in tokens)
    before = ""
    for token in tokens:
        # A piece that goes on with a word may stand inside one, and no other.
        goes_on = token.startswith("##") or (marked and not token.startswith(_SPACES))
        goes_on |= closed and not before.endswith("</w>")
        goes_on |= token == "n't"  # which word vectors split off: "is" and "n't"
        before = token
        for mark in _MARKS:
            token = token.removeprefix(mark).removesuffix(mark)
        folded = _folded(token)[0]
        found = text.find(folded, begin) if folded else -1
        while found > 0 and not goes_on and _INSIDE.match(text, found - 1):
            found = text.find(folded, found + 1)
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
        letters = normalize("NFD", text[place:end].lower()).replace("\u2019", "'")
        piece = "".join(letter for letter in letters if category(letter) != "Mn")
        folded += piece
        starts += [place] * len(piece)
        place = end
    return folded, [*starts, len(text)]
