"""WUPS by hand, and what is asked of WordNet."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

from vlm.metrics import mean_wups, wups
from vlm.metrics.wups import wordnet_similarity

NEAR = {("desk", "table"): 0.95, ("lamp", "light"): 0.5, ("desk", "light"): 0.2}


def similarity(a: str, b: str) -> float:
    return NEAR.get((a, b), NEAR.get((b, a), 0.0))


@pytest.mark.parametrize(
    ("prediction", "answer", "threshold", "score"),
    [
        (["desk"], ["desk"], 0.9, 1),
        (["table"], ["desk"], 0.9, 0.95),
        (["light"], ["lamp"], 0.9, 0.05),
        (["light"], ["lamp"], 0.0, 0.5),
        # desk -> table 0.95, light -> lamp 0.5; the other way alike.
        (["desk", "light"], ["lamp", "table"], 0.0, 0.95 * 0.5),
        # Naming one of two: its own product is 1, the other side's 0.2 for light -> desk.
        (["desk"], ["desk", "light"], 0.0, 0.2),
        (["desk", "light"], ["desk"], 0.9, 0.02),
        (["cup"], ["desk"], 0.0, 0),
    ],
)
def test_by_hand(prediction: list[str], answer: list[str], threshold: float, score: float) -> None:
    assert wups(prediction, answer, similarity, threshold) == pytest.approx(score)


class Meaning:
    def __init__(self, name: str) -> None:
        self.name = name

    def wup_similarity(self, other: Meaning) -> float | None:
        return similarity(self.name, other.name) or None


def install(monkeypatch: pytest.MonkeyPatch, **wordnet: object) -> None:
    corpus = ModuleType("nltk.corpus")
    corpus.wordnet = SimpleNamespace(NOUN="n", **wordnet)
    monkeypatch.setitem(sys.modules, "nltk", ModuleType("nltk"))
    monkeypatch.setitem(sys.modules, "nltk.corpus", corpus)


def test_the_nearest_meanings_of_two_nouns_count(monkeypatch: pytest.MonkeyPatch) -> None:
    senses = {"bureau": ["office", "desk"], "table": ["table", "chart"], "xyz": []}

    def synsets(word: str, pos: str) -> list[Meaning]:
        assert pos == "n"
        return [Meaning(name) for name in senses[word]]

    install(monkeypatch, ensure_loaded=lambda: None, synsets=synsets)
    found = wordnet_similarity()
    assert found("bureau", "table") == 0.95
    assert found("bureau", "xyz") == 0
    assert mean_wups(["bureau", "table"], ["table", "table"]) == {
        "wups_0.9": pytest.approx((0.95 + 1) / 2),
        "wups_0.0": pytest.approx((0.95 + 1) / 2),
    }
    assert mean_wups(["xyz, table"], ["table,xyz"]) == {"wups_0.9": 1, "wups_0.0": 1}


def test_it_is_left_out_without_wordnet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nltk.corpus", None)  # not installed
    assert mean_wups(["a"], ["a"]) == {}

    def not_downloaded() -> None:
        raise LookupError("Resource wordnet not found.")

    install(monkeypatch, ensure_loaded=not_downloaded)
    assert mean_wups(["a"], ["a"]) == {}
