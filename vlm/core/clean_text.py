"""The gate for text: whatever a stranger wrote becomes what every tokenizer and file can take."""

from __future__ import annotations

from collections.abc import Iterable
from unicodedata import is_normalized, normalize

import regex

from vlm.core.validation import shorten

_SPACE = regex.compile(r"(?V1)[[\p{Cc}\p{Zs}]--[\t\n\r]]")
"""Control characters such as NUL and all kinds of spaces, which become spaces. Line ends stay."""

_UNSEEN = regex.compile(
    r"(?V1)[[\p{Cf}&&\p{Default_Ignorable_Code_Point}]--[\u200c\u200d\U000e0000-\U000e007f]]"
)
"""Invisible characters, with which equal texts would differ: direction marks, byte order marks,
soft hyphens, zero-width spaces. U+200C and U+200D, which change letters of Persian and Indic
scripts and join emoji, and tags, which spell flags, stay."""


def clean_text(text: object) -> str:
    """Convert a text to the form in which questions, choices, answers and words are compared.

    Accents are composed (Unicode NFC), control characters and all kinds of spaces become spaces,
    and invisible characters are removed. Not NFKC, which would change visible text: "x²" into "x2",
    "½" into "1⁄2". Case and punctuation stay.

    Every question, choice and answer passes through here: when a data set is read, when a batch is
    made, when a model is asked and when it answers. The tokenizer truncates and counts texts that
    are too long.

    >>> clean_text("is it\\0red?"), clean_text("cafe\\u0301") == "caf\\u00e9"
    ('is it red?', True)

    Raises:
        ValueError: no text, or half of a surrogate pair, which no file can hold. The message
            continues a sentence that begins with the owner of the text.
    """
    if not isinstance(text, str):
        raise ValueError(f"got {shorten(text)}; expected text")
    clean = text
    if not text.isprintable():  # rare: controls, surrogates or invisible characters
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"got {shorten(text)}, which is not valid Unicode; correct it"
            ) from None
        clean = _UNSEEN.sub("", _SPACE.sub(" ", text))
    return normalize("NFC", clean)


def clean_vocabulary(texts: Iterable[str]) -> list[str]:
    """`clean_text` of each; all as they are where two would become one, as a model may have been
    trained with before."""
    texts = list(texts)
    clean = [clean_text(text) for text in texts]
    return clean if len(set(clean)) == len(clean) else texts


def are_clean(texts: Iterable[str]) -> bool:
    """Whether `clean_text` would give every text back as it is; of all at once, so it is fast.

    False may also be said of texts that are clean: those with an end of a line.

    >>> are_clean(["is it red?", "what colour?"]), are_clean(["is it\\0red?"]), are_clean([None])
    (True, False, False)
    """
    try:
        text = "".join(texts)
    except TypeError:  # one of them is no text
        return False
    return text.isprintable() and is_normalized("NFC", text)
