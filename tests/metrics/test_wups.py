"""WUPS by hand, and on a small WordNet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from wordnet_files import write_wordnet

from vlm.metrics import mean_wups, wups
from vlm.metrics.wordnet import installed_wordnet

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
        # desk -> table 0.95, light -> lamp 0.5; the same in reverse.
        (["desk", "light"], ["lamp", "table"], 0.0, 0.95 * 0.5),
        # One of two named: its own product is 1, the other side's is 0.2 for light -> desk.
        (["desk"], ["desk", "light"], 0.0, 0.2),
        (["desk", "light"], ["desk"], 0.9, 0.02),
        (["cup"], ["desk"], 0.0, 0),
    ],
)
def test_by_hand(prediction: list[str], answer: list[str], threshold: float, score: float) -> None:
    assert wups(prediction, answer, similarity, threshold) == pytest.approx(score)


@pytest.fixture(autouse=True)
def none_kept() -> Iterator[None]:
    installed_wordnet.cache_clear()
    yield
    installed_wordnet.cache_clear()


def test_objects_are_compared_as_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WNSEARCHDIR", str(write_wordnet(tmp_path)))
    # Both are one step below furniture, which is the second from the root.
    near = 2 * 2 / (1 + 1 + 2 * 2)
    assert mean_wups(["desk", "chair"], ["chair", "chair"]) == {
        "wups_0.9": pytest.approx((0.1 * near + 1) / 2),
        "wups_0.0": pytest.approx((near + 1) / 2),
    }
    assert mean_wups(["xyz, chair"], ["chair,xyz"]) == {"wups_0.9": 1, "wups_0.0": 1}


def test_it_is_left_out_without_wordnet(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("WNSEARCHDIR", raising=False)
    monkeypatch.setattr("vlm.metrics.wordnet.PLACES", ())
    assert mean_wups(["a"], ["a"]) == {}
    assert "wordnet-base" in caplog.text
    assert "WNSEARCHDIR" in caplog.text
