"""What a model replied, and whether a page may print it as an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vlm.asking import percent
from vlm.explain import Explanation
from vlm.inference import Answer
from vlm.serve.questions import as_dict

NO_REASONS_BECAUSE = "No reasons:"
"""How a note begins that says why there is no explanation."""
UNSURE = 0.5
"""A best answer that is less likely is no headline."""
Standing = Literal["answer", "not sure", "abstains", "beyond"]


@dataclass(frozen=True)
class Reply:
    """The answer of one model.

    Attributes:
        model: its name in the demo.
        answer: the answer, with the most likely ones.
        scale: what the probabilities mean, a sentence or two.
        warnings: reasons to doubt that the model can know the answer, one sentence each.
        notes: what else to know before believing the answer, one sentence each.
        milliseconds: time from question to answer in the model; the image was encoded before.
        explanation: which words and places decided, if requested.
    """

    model: str
    answer: Answer
    scale: str
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    milliseconds: float
    explanation: Explanation | None = None

    @property
    def standing(self) -> Standing:
        """Whether this is an answer, or why a page should not print it as one."""
        if self.answer.is_guess:
            return "beyond"
        if self.answer.abstains:
            return "abstains"
        unsure = self.warnings or self.answer.probability < UNSURE
        return "not sure" if unsure else "answer"

    @property
    def best(self) -> str:
        """The most likely answer, also of a model that abstains."""
        return self.answer.top[0][0]

    @property
    def headline(self) -> str:
        """What a page prints in large letters."""
        instead = {"beyond": "No answer", "not sure": "Not sure"}
        return instead.get(self.standing, self.answer.text or "(nothing)")

    @property
    def why_no_reasons(self) -> str:
        """Why there is no explanation."""
        return next(
            (note for note in self.notes if note.startswith(NO_REASONS_BECAUSE)), "Not asked for."
        )

    def as_dict(self) -> dict[str, Any]:
        """The reply for JSON; see docs/demo.md."""
        return {
            "model": self.model,
            **as_dict(self.answer),
            "sure": self.standing == "answer",
            "scale": self.scale,
            "notes": [*self.warnings, *self.notes],
            "milliseconds": round(self.milliseconds, 3),
            "explanation": None if self.explanation is None else self.explanation.as_dict(),
        }


def doubts(answer: Answer) -> list[str]:
    """A note if the model is unsure."""
    if answer.is_guess:  # its warnings say so, and its probability means nothing
        return []
    if answer.abstains:
        return ["The risk is above the one accepted; below are the answers it thought of."]
    if answer.probability < UNSURE:
        return [f"The model is unsure: it gives its best answer {percent(answer.probability)}."]
    if len(answer.top) > 1 and answer.top[1][1] > 0.8 * answer.probability:
        (first, p), (second, q) = answer.top[:2]
        return [f"A close call: {first!r} {percent(p)}, {second!r} {percent(q)}."]
    return []


def agreement(replies: Sequence[Reply]) -> bool | None:
    """Whether two or more models agree; None for one model, or if one gives no answer."""
    if any(reply.answer.is_guess or reply.answer.abstains for reply in replies):
        return None
    texts = {reply.answer.text.strip().lower() for reply in replies}
    return len(texts) == 1 if len(replies) > 1 else None


def differing(text: str, others: Sequence[str]) -> list[tuple[str, bool]]:
    """The words of an answer, each with whether one of the other answers lacks it.

    >>> differing("a red car", ["a blue car"])
    [('a', False), ('red', True), ('car', False)]
    """
    known = [set(other.lower().split()) for other in others]
    return [(word, any(word.lower() not in words for words in known)) for word in text.split()]
