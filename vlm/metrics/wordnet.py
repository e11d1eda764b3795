"""How near the meanings of two nouns are, by WordNet's own files."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

PLACES = ("/usr/share/wordnet",)
"""Where Debian's package `wordnet-base` puts the files."""

_FILES = ("index.noun", "data.noun", "noun.exc")
_ENDINGS = (
    ("s", ""),
    ("ses", "s"),
    ("ves", "f"),
    ("xes", "x"),
    ("zes", "z"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("men", "man"),
    ("ies", "y"),
)
"""Rules that take a plural back to its noun: morphy(7WN)."""


class Meaning(NamedTuple):
    """A set of synonyms: its first word in lower case with its number among that word's meanings,
    which gives an order, and the places of its hypernyms."""

    name: tuple[str, int]
    above: tuple[int, ...]


class WordNet:
    """The nouns of WordNet (Fellbaum 1998), from a folder with index.noun, data.noun and noun.exc
    (the format: wndb(5WN)).

    Raises:
        FileNotFoundError: a file is missing there.
    """

    def __init__(self, folder: Path) -> None:
        for name in _FILES:
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"{folder / name}: there is no such file; expected WordNet's database files "
                    f"({', '.join(_FILES)}), as in Debian's package wordnet-base."
                )
        self._lines = (folder / "data.noun").read_bytes()
        self._places: dict[str, list[int]] = {}
        for line in (folder / "index.noun").read_text("utf-8").splitlines():
            if not line.startswith(" "):  # those are the licence
                lemma, _, count, *rest = line.split()
                self._places[lemma] = [int(place) for place in rest[-int(count) :]]
        self._irregular: dict[str, list[str]] = {}
        for line in (folder / "noun.exc").read_text("utf-8").splitlines():
            plural, *nouns = line.split()
            self._irregular[plural] = nouns
        self.similarity = lru_cache(maxsize=1 << 16)(self._similarity)
        self._meaning = lru_cache(maxsize=1 << 16)(self._read)
        self._above = lru_cache(maxsize=1 << 16)(self._distances)
        self._depth = lru_cache(maxsize=1 << 16)(self._find_depth)

    def meanings(self, noun: str) -> list[int]:
        """Places of a noun's meanings, the most frequent first; of its singular for a plural."""
        word = noun.lower().replace(" ", "_")
        forms = [word, *self._irregular.get(word, ())]
        if word not in self._irregular:
            forms += [word.removesuffix(end) + new for end, new in _ENDINGS if word.endswith(end)]
        found = [place for form in forms for place in self._places.get(form, ())]
        return list(dict.fromkeys(found))

    def _similarity(self, first: str, second: str) -> float:
        """Wu and Palmer's similarity of the two nearest meanings of two nouns, in [0, 1].

        Twice the depth of the nearest common hypernym, by the depths of both through it ("Verb
        Semantics and Lexical Selection", ACL 1994). 0 for a word that WordNet has not.
        """
        pairs = ((a, b) for a in self.meanings(first) for b in self.meanings(second))
        return max((self._wu_palmer(a, b) for a, b in pairs), default=0.0)

    def _wu_palmer(self, first: int, second: int) -> float:
        a, b = self._above(first), self._above(second)
        common = [place for place in a if place in b]
        deepest = max(self._depth(place)[0] for place in common)  # "entity" is above all
        lowest = [place for place in common if self._depth(place)[0] == deepest]
        subsumer = first if first in lowest else min(lowest, key=lambda p: self._meaning(p).name)
        depth = self._depth(subsumer)[1] + 1
        # The way may lead over a hypernym of the subsumer: what NLTK counts, and with it all
        # published scores.
        over = self._above(subsumer)
        ways = [min(up[place] + over[place] for place in over) for up in (a, b)]
        return 2 * depth / (sum(ways) + 2 * depth)

    def _distances(self, place: int) -> dict[int, int]:
        """Every hypernym, itself included, and how many steps up it is at least."""
        steps, edge, distance = {place: 0}, [place], 0
        while edge:
            distance += 1
            edge = [up for low in edge for up in self._meaning(low).above if up not in steps]
            steps |= dict.fromkeys(edge, distance)
        return steps

    def _find_depth(self, place: int) -> tuple[int, int]:
        """The shortest and the longest way to the root."""
        above = [self._depth(up) for up in self._meaning(place).above]
        if not above:
            return 0, 0
        return 1 + min(low for low, _ in above), 1 + max(high for _, high in above)

    def _read(self, place: int) -> Meaning:
        line = self._lines[place : self._lines.index(b"\n", place)].decode("utf-8")
        fields = line.split(" | ")[0].split()
        words = int(fields[3], 16)
        word = fields[4].lower()
        pointers = fields[4 + 2 * words + 1 :]
        above = tuple(
            int(pointers[i + 1]) for i in range(0, len(pointers), 4) if pointers[i] in ("@", "@i")
        )
        return Meaning((word, self._places[word].index(place)), above)


@lru_cache(maxsize=1)
def installed_wordnet() -> WordNet | None:
    """WordNet of the folder that the environment names in WNSEARCHDIR, or of Debian's package; None
    where neither is there.

    Raises:
        FileNotFoundError: WNSEARCHDIR names a folder without the files.
    """
    if named := os.environ.get("WNSEARCHDIR"):  # what WordNet's own programs read
        return WordNet(Path(named))
    return next((WordNet(Path(place)) for place in PLACES if Path(place).is_dir()), None)
