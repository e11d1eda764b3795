"""Words by which questions and answers speak of what an augmentation changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Literal, get_args

import regex

from vlm.text.words import LETTER, MARK

Meaning = Literal["color", "direction"]
"""What an augmentation can make untrue: a color, or where up, down, left and right are."""
MEANINGS: tuple[Meaning, ...] = get_args(Meaning)
Language = Literal["en", "de", "es"]


def _words(text: str) -> list[str]:
    """Words with spaces between, each "stem|end|end" with each of its endings."""
    forms = [word.split("|") for word in text.split()]
    return [stem + end for stem, *ends in forms for end in ("", *ends)]


_WORDS: dict[Meaning, frozenset[str]] = {
    "color": frozenset(
        _words(
            """
            color|s|ed|ful colour|s|ed|ful red|dish orange yellow|ish green|ish cyan blue|ish pink
            brown|ish gray|ish grey|ish white|ish black|ish purple violet beige turquoise tan maroon
            gold|en silver blond|e
            farbe|n farbig|e rot|e|en|er|es gelb|e|en|er|es grün|e|en|er|es blau|e|en|er|es
            braun|e|en|er|es grau|e|en|er|es weiß|e|en|er|es schwarz|e|en|er|es türkis|e|en|er|es
            lila violett|e|en rosa rosafarbene|n|r|s orangefarbene|n|r|s goldene|n silberne|n
            colores rojo|s roja|s amarillo|s amarilla|s blanco|s blanca|s negro|s negra|s azul|es
            verde|s gris|es marrón naranja morado|s morada|s cian rosado|s dorado|s plateado|s
            """
        )
    ),
    "direction": frozenset(
        _words(
            """
            left|most right|most top bottom up down upper lower above below under beneath underneath
            links linke|n|r|s rechts rechte|n|r|s oben unten über unter oberhalb unterhalb
            izquierda|s izquierdo|s derecha|s derecho|s arriba abajo encima debajo
            """
        )
    ),
}


def _both_ways(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    return {word: other for pair in pairs for word, other in (pair, pair[::-1])}


EXCHANGED: dict[Language, dict[str, str]] = {
    "en": _both_ways(
        (f"left{end}", f"right{end}") for end in ("", "most", "ward", "wards", "hand", "side")
    ),
    "de": _both_ways((f"link{end}", f"recht{end}") for end in ("s", "e", "en", "er", "es", "em")),
    "es": _both_ways((f"izquierd{end}", f"derech{end}") for end in ("a", "o", "as", "os")),
}
"""What left and right are called, each word with its opposite."""


def speaks_of(meaning: Meaning, words: Iterable[str]) -> list[str]:
    """Those of some lower-case words that name a color or a direction, in their order."""
    return [word for word in words if word in _WORDS[meaning]]


def names_any(word: str) -> bool:
    """Whether a lower-case word names a color or a direction."""
    return any(word in words for words in _WORDS.values())


def exchange(text: str, opposite: Mapping[str, str]) -> str:
    """A text with each of some words in the place of its opposite, in upper case where it was.

    >>> exchange("Is the left-hand cup LEFT of it?", EXCHANGED["en"])
    'Is the right-hand cup RIGHT of it?'
    >>> exchange("杯子在左边吗", {"左": "右", "右": "左"})
    '杯子在右边吗'
    """

    def other(found: regex.Match[str]) -> str:
        word = found[0]
        changed = opposite[word.lower()]
        if word.isupper():
            return changed.upper()
        return changed.capitalize() if word[0].isupper() else changed

    return _any_of(tuple(opposite)).sub(other, text)


@cache
def _any_of(words: tuple[str, ...]) -> regex.Pattern[str]:
    longest_first = sorted(map(regex.escape, words), key=len, reverse=True)
    # A word ends where its letters and their marks end; in scripts without spaces, anywhere.
    return regex.compile(
        rf"(?<![{LETTER}][{MARK}]*)(?:{'|'.join(longest_first)})(?![{LETTER}{MARK}])",
        regex.IGNORECASE,
    )
