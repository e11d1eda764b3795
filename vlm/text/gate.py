"""The gate for text: whatever a stranger wrote becomes what every tokenizer and file can take."""

from __future__ import annotations

from collections.abc import Iterable

WHITE = "\t\n\r"
CONTROL = dict.fromkeys({*range(32), *range(127, 160)} - set(map(ord, WHITE)), " ")
"""NUL and other control characters, which are spaces to a model. Ends of lines stay."""


def clean_text(text: object) -> str:
    """The text with control characters as spaces; other characters stay as they are.

    Every question, choice and answer comes through here: when a data set is read, when a batch is
    made, and when a model is asked. What is too long is cut by the tokenizer, which counts it.

    >>> clean_text("is it\\0red?")
    'is it red?'

    Raises:
        ValueError: no text, or half of a surrogate pair, which no file can hold; as the rest of a
            sentence that begins with whose text it is.
    """
    if not isinstance(text, str):
        raise ValueError(f"got {_short(text)}; wanted text")
    if text.isprintable():  # no control characters and no surrogates: nearly all
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"got {_short(text)}, which is no valid Unicode; correct it") from None
    return text.translate(CONTROL)


def are_clean(texts: Iterable[str]) -> bool:
    """Whether `clean_text` would give every text back as it is; told of all at once, so it is fast.

    False may also be said of texts that are clean: those with an end of a line.

    >>> are_clean(["is it red?", "what colour?"]), are_clean(["is it\\0red?"]), are_clean([None])
    (True, False, False)
    """
    try:
        return "".join(texts).isprintable()
    except TypeError:  # one of them is no text
        return False


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
