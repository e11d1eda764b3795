"""WUPS: accuracy that gives something for an answer of nearly the right meaning.

Malinowski and Fritz, "A Multi-World Approach to Question Answering about Real-World Scenes based on
Uncertain Input", NeurIPS 2014, section 4; their script calculate_wups.py settles the details.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import prod

Similarity = Callable[[str, str], float]
"""How near two words are, in [0, 1]."""

_FAR = 0.1
"""Weight of a similarity below the threshold."""


def wups(
    prediction: Sequence[str], answer: Sequence[str], similarity: Similarity, threshold: float
) -> float:
    """WUPS of one answer, both sides being sets of objects.

    The smaller of two products: over the objects of one side, the similarity of each to the
    nearest one of the other side.

    Args:
        prediction: the objects that were named.
        answer: the right ones.
        similarity: of two words.
        threshold: similarities below it count a tenth; 0.9 and 0 are usual.

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


def wordnet_similarity() -> Similarity | None:
    """Wu and Palmer's similarity of the nearest meanings that two nouns have in WordNet.

    Returns:
        None where nltk is not installed or its corpus `wordnet` was not downloaded.
    """
    try:
        from nltk.corpus import wordnet

        wordnet.ensure_loaded()
    except (ImportError, LookupError):
        return None

    @lru_cache(maxsize=1 << 16)
    def similarity(first: str, second: str) -> float:
        pairs = (
            (a, b)
            for a in wordnet.synsets(first, pos=wordnet.NOUN)
            for b in wordnet.synsets(second, pos=wordnet.NOUN)
        )
        return max((a.wup_similarity(b) or 0.0 for a, b in pairs), default=0.0)

    return similarity


def mean_wups(predictions: Sequence[str], answers: Sequence[str]) -> dict[str, float]:
    """WUPS at 0.9 and 0 over a split; empty without WordNet.

    Args:
        predictions: the answer given to each question, objects separated by commas.
        answers: the right ones.
    """
    similarity = wordnet_similarity()
    if similarity is None or not answers:
        return {}
    pairs = [(_objects(p), _objects(a)) for p, a in zip(predictions, answers, strict=True)]
    return {
        f"wups_{threshold}": sum(wups(p, a, similarity, threshold) for p, a in pairs) / len(pairs)
        for threshold in (0.9, 0.0)
    }


def _objects(answer: str) -> list[str]:
    return sorted({part.strip() for part in answer.split(",")})
