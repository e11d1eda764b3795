"""WUPS: accuracy that gives something for an answer of nearly the right meaning.

Malinowski and Fritz, "A Multi-World Approach to Question Answering about Real-World Scenes based on
Uncertain Input", NeurIPS 2014, section 4; their script calculate_wups.py settles the details.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from math import prod

from vlm.metrics.wordnet import installed_wordnet

_log = logging.getLogger(__name__)

Similarity = Callable[[str, str], float]
"""How near two words are, in [0, 1]."""

_FAR = 0.1
"""Weight of a similarity below the threshold."""


def wups(
    prediction: Sequence[str], answer: Sequence[str], similarity: Similarity, threshold: float
) -> float:
    """WUPS of one answer, where both sides are sets of objects.

    It is the smaller of two products, one for each side: the product over its objects of the
    similarity to the nearest object of the other side.

    Args:
        prediction: objects that the model named.
        answer: the right objects.
        similarity: function that returns the similarity of two words.
        threshold: similarity below which only a tenth of it counts; 0.9 and 0 are usual.

    Returns:
        A score in [0, 1].
    """

    def near(a: str, b: str) -> float:
        if a == b:
            return 1.0
        found = similarity(a, b)
        return found if found >= threshold else _FAR * found

    if not prediction or not answer:
        return float(not prediction and not answer)
    return min(
        prod(max(near(a, b) for b in answer) for a in prediction),
        prod(max(near(a, b) for a in prediction) for b in answer),
    )


def mean_wups(predictions: Sequence[str], answers: Sequence[str]) -> dict[str, float]:
    """WUPS at 0.9 and 0 over a split; empty, with a line in the log, without WordNet.

    Args:
        predictions: the model's answer to each question, objects separated by commas.
        answers: the right answers, in the same form.
    """
    wordnet = installed_wordnet()
    if wordnet is None:
        _log.warning(
            "WUPS is left out: WordNet is not there. Install Debian's package wordnet-base, or "
            "name the folder of its index.noun, data.noun and noun.exc in WNSEARCHDIR."
        )
    if wordnet is None or not answers:
        return {}
    pairs = [(_objects(p), _objects(a)) for p, a in zip(predictions, answers, strict=True)]
    return {
        f"wups_{threshold}": sum(wups(p, a, wordnet.similarity, threshold) for p, a in pairs)
        / len(pairs)
        for threshold in (0.9, 0.0)
    }


def _objects(answer: str) -> list[str]:
    return sorted({part.strip() for part in answer.split(",")})
