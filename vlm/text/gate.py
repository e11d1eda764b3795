"""The gate for text: whatever a stranger wrote becomes what every tokenizer and file can take."""

from __future__ import annotations

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


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
