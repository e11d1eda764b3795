"""Augmentations of questions."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod

from vlm.core.part import Configured
from vlm.core.validation import check_probability
from vlm.data.augmentation.meaning import names_any
from vlm.data.augmentation.typos import TYPOS, with_typo
from vlm.text.words import split_words

KEPT = frozenset(
    [
        *("not", "no", "never", "without", "and", "or", "more", "less", "fewer", "than", "most"),
        *("nicht", "kein", "keine", "keinen", "keiner", "und", "oder", "mehr", "weniger", "als"),
        *("ninguno", "ninguna", "sin", "y", "o", "más", "menos", "que", "least"),
        *("neither", "nor", "none", "only", "same", "equal", "different", "other", "cannot"),
        *("ohne", "nie", "weder", "noch", "nur", "gleich", "gleiche", "gleichen", "anders"),
        *("nunca", "jamás", "ni", "solo", "sólo", "mismo", "misma", "igual", "distinto"),
        *("nobody", "nothing", "keinem", "keines", "keins", "niemals", "niemand", "nichts"),
        *("ningún", "ningun", "nadie", "nada", "tampoco"),
    ]
)
"""Words, beside the names of colors and directions, that no question loses, for they decide the
answer: English, German and Spanish."""
COMPARING = ("than", "als", "que")
"""What follows a comparative in them."""


class QuestionAugmentation(Configured, ABC):
    """Base of the random changes of training questions that keep their answers true.

    Example:
        >>> class Shouted(vlm.data.augmentation.QuestionAugmentation):
        ...     def __call__(self, question, rng):
        ...         return question.upper() if rng.random() < 0.1 else question
        >>> import random
        >>> Shouted()("What is it?", random.Random(1))
        'What is it?'
    """

    @abstractmethod
    def __call__(self, question: str, rng: random.Random) -> str:
        """A question, changed; it must not become empty.

        Args:
            question: as the data has it, left and right exchanged where its image is mirrored.
            rng: all randomness comes from here.
        """


class Typos(QuestionAugmentation):
    """A typing error inside a word of four letters or more.

    Letters are swapped, one is missing, or a neighbouring key was hit, all equally likely.

    Args:
        probability: share of the questions that get an error, in (0, 1].

    Example:
        >>> import random
        >>> vlm.data.augmentation.Typos(probability=1.0)("What color is it?", random.Random(0))
        'Wjat color is it?'
    """

    def __init__(self, probability: float = 0.1) -> None:
        check_probability(probability=probability)
        self.probability = probability

    def __call__(self, question: str, rng: random.Random) -> str:
        if rng.random() >= self.probability:
            return question
        return with_typo(question, rng.choice([*TYPOS.values()]), rng)


class DroppedWords(QuestionAugmentation):
    """Words left out independently of each other (Wei & Zou, "EDA", arXiv 1901.11196, section 2).

    Names of colors and directions, negations ("doesn't" too) and comparisons ("bigger than") stay,
    and at least one word.

    Args:
        share: probability in (0, 1) of each other word to be left out.

    Example:
        >>> import random
        >>> drop = vlm.data.augmentation.DroppedWords(share=0.5)
        >>> drop("Is the red ball left of the blue cube?", random.Random(0))
        'Is the red left the blue'
    """

    def __init__(self, share: float = 0.1) -> None:
        check_probability(share=share)
        self.share = share

    def __call__(self, question: str, rng: random.Random) -> str:
        words = question.split()
        pairs = zip(words, [*words[1:], ""], strict=True)
        stays = [rng.random() >= self.share or _decides(*pair) for pair in pairs]
        if not any(stays):
            return question
        return " ".join(word for word, stay in zip(words, stays, strict=True) if stay)


def _decides(word: str, following: str) -> bool:
    if split_words(following)[:1] in ([each] for each in COMPARING):
        return True
    parts = split_words(word)
    return any(part in KEPT or part.endswith("n't") or names_any(part) for part in parts)
