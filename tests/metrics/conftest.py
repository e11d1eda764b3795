"""A WordNet of five sets of synonyms, in the format of the real one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from vlm.metrics.wordnet import installed_wordnet

_ABOVE = {"entity": [], "furniture": ["entity"], "chair": ["furniture"], "desk": ["furniture"]}
_SETS = [[name] for name in _ABOVE] + [["table"], ["chart", "table"]]
_LICENCE = "  1 This line stands for the licence.\n"


@pytest.fixture
def mini_wordnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Its folder, named in the environment as the one to use."""
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
    (tmp_path / "data.noun").write_text(data)
    (tmp_path / "index.noun").write_text(
        _LICENCE
        + "".join(
            f"{word} n {len(found)} 1 @ {len(found)} 0 {' '.join(f'{p:08}' for p in found)}\n"
            for word, found in sorted(places.items())
        )
    )
    (tmp_path / "noun.exc").write_text("deska desk\n")
    monkeypatch.setenv("WNSEARCHDIR", str(tmp_path))
    installed_wordnet.cache_clear()
    yield tmp_path
    installed_wordnet.cache_clear()
