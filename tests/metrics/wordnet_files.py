"""A WordNet of a few sets of synonyms, in the real format."""

from __future__ import annotations

from pathlib import Path

_ABOVE = {"entity": [], "furniture": ["entity"], "chair": ["furniture"], "desk": ["furniture"]}
_SETS = [[name] for name in _ABOVE] + [["table"], ["chart", "table"]]
_LICENCE = "  1 This line stands for the licence.\n"


def write_wordnet(folder: Path) -> Path:
    """Write the files into `folder`."""
    above = [*_ABOVE.values(), ["furniture"], ["entity"]]
    places: dict[str, list[int]] = {}
    data = _LICENCE
    for words, hypernyms in zip(_SETS, above, strict=True):
        place = len(data)
        for word in words:
            places.setdefault(word, []).append(place)
        named = " ".join(f"{word} 0" for word in words)
        pointers = "".join(f" @ {places[name][0]:08} n 0000" for name in hypernyms)
        data += f"{place:08} 03 n {len(words):02x} {named} {len(hypernyms):03}{pointers} | gloss\n"
    (folder / "data.noun").write_text(data)
    (folder / "index.noun").write_text(
        _LICENCE
        + "".join(
            f"{word} n {len(found)} 1 @ {len(found)} 0 {' '.join(f'{p:08}' for p in found)}\n"
            for word, found in sorted(places.items())
        )
    )
    (folder / "noun.exc").write_text("deska desk\n")
    return folder
