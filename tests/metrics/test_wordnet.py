"""WordNet's nouns, from small files in its format and from the real ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from wordnet_files import write_wordnet

from vlm.metrics.wordnet import PLACES, WordNet, installed_wordnet


def test_nearer_meanings_are_more_similar(tmp_path: Path) -> None:
    wordnet = WordNet(write_wordnet(tmp_path))
    # depths: entity 1, furniture 2, chair and desk 3; twice the shared depth by the sum of both
    assert wordnet.similarity("chair", "desk") == pytest.approx(2 * 2 / (3 + 3))
    assert wordnet.similarity("chair", "furniture") == pytest.approx(2 * 2 / (3 + 2))
    assert wordnet.similarity("chair", "entity") == pytest.approx(2 * 1 / (3 + 1))
    assert wordnet.similarity("chair", "chair") == 1
    assert wordnet.similarity("chair", "unheard_of") == 0


def test_the_nearest_of_several_meanings_counts(tmp_path: Path) -> None:
    # The first meaning of "table" is furniture, the second a chart, directly below entity.
    wordnet = WordNet(write_wordnet(tmp_path))
    assert len(wordnet.meanings("table")) == 2
    assert wordnet.similarity("table", "chart") == 1  # same set of synonyms
    assert wordnet.similarity("table", "desk") == pytest.approx(2 * 2 / (3 + 3))


def test_plurals_lead_to_their_nouns(tmp_path: Path) -> None:
    wordnet = WordNet(write_wordnet(tmp_path))
    assert wordnet.similarity("chairs", "chair") == 1
    assert wordnet.similarity("Chairs", "chair") == 1
    assert wordnet.similarity("deska", "desk") == 1  # irregular, by noun.exc
    assert wordnet.meanings("chairz") == []


def test_a_folder_without_the_files_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WNSEARCHDIR", str(tmp_path))
    installed_wordnet.cache_clear()
    with pytest.raises(FileNotFoundError, match=r"index\.noun.*wordnet-base"):
        installed_wordnet()
    installed_wordnet.cache_clear()


@pytest.mark.skipif(
    not Path(PLACES[0]).is_dir(), reason="WordNet is missing: apt-get install wordnet-base"
)
@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("dog", "cat", 0.857142857142857),
        # Values of NLTK 3.10.4 on the same files.
        ("sink", "fan", 0.631578947368421),  # the path passes through a hypernym of what they share
        ("handle", "shaver", 0.42857142857142855),
        ("resort_area", "hezekiah", 0.35294117647058826),
    ],
)
def test_it_equals_nltk(first: str, second: str, expected: float) -> None:
    assert WordNet(Path(PLACES[0])).similarity(first, second) == pytest.approx(expected, abs=1e-12)
