"""How close a written answer is to what the annotators wrote, letter by letter.

Standard library only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from unicodedata import normalize

ANLS_THRESHOLD: Final = 0.5


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1.0 if the prediction equals an annotator's answer, apart from outer spaces, otherwise 0.0.

    Composed and decomposed accents are equal (Unicode NFC).

    Args:
        prediction: the model's answer.
        answers: the annotators' answers, at least one.

    Raises:
        ValueError: no answers.
    """
    _check(answers)
    return float(_compared(prediction) in map(_compared, answers))


def anls(prediction: str, answers: Sequence[str], threshold: float = ANLS_THRESHOLD) -> float:
    """Normalised Levenshtein similarity to the nearest answer, or 0.0 if that is too far.

    Let NL be the distance divided by the length of the longer text. The similarity is 1 - NL if NL
    < threshold, and otherwise 0; the best over the annotators counts. The mean over questions is
    the ANLS of Biten et al. 2019, "Scene text visual question answering" (arXiv 1905.13648). Case
    and outer spaces do not count, as in the evaluation of that challenge, but inner spaces do.
    Accents are compared in composed form.

    Args:
        prediction: the model's answer.
        answers: the annotators' answers, at least one.
        threshold: value of NL from which an answer scores 0, in (0, 1]; 0.5 in the paper.

    Raises:
        ValueError: no answers, or a threshold out of range.
    """
    _check(answers)
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold: got {threshold}; expected above 0 and at most 1.")
    given = _compared(prediction).lower()
    far = min(_share(given, _compared(answer).lower()) for answer in answers)
    return 1 - far if far < threshold else 0.0


def _compared(text: str) -> str:
    return normalize("NFC", text).strip()


def _share(a: str, b: str) -> float:
    return levenshtein(a, b) / max(len(a), len(b), 1)


def levenshtein(a: str, b: str) -> int:
    """The fewest letters to insert, delete or replace that make `a` into `b`."""
    before = list(range(len(b) + 1))  # of the empty beginning of `a`
    for row, letter in enumerate(a, start=1):
        now = [row]
        for column, other in enumerate(b, start=1):
            replaced = before[column - 1] + (letter != other)
            now.append(min(replaced, before[column] + 1, now[column - 1] + 1))
        before = now
    return before[-1]


def _check(answers: Sequence[str]) -> None:
    if isinstance(answers, str) or not len(answers):
        raise ValueError(
            f"answers: got {answers!r}; expected what the annotators wrote, a list of one at least."
        )
