"""Questions and choices that are asked, and the answers to them, with reasons to doubt these.

Nothing here needs torch: an exported model asks and answers by it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from vlm.core.clean_text import clean_text
from vlm.core.validation import counted, mistake_in


@dataclass(frozen=True)
class Answer:
    """The answer to one question.

    Attributes:
        text: the most likely answer, or "I don't know" where it abstains.
        probability: probability in [0, 1] of the most likely answer.
        top: the most likely answers with their probabilities, best first.
        warnings: reasons to doubt the answer, one sentence each.
        is_guess: whether the question is beyond the model (`Tokenizer.misses`). Then show no
            answer: `text` and `probability` mean nothing.
        calibrated: whether the probabilities were calibrated (`vlm calibrate`), so that of answers
            given 80 % some 80 % are right; else they are as the head gives them.
        abstains: whether the probability is below the threshold that keeps the `max_risk` asked
            for; `top` has the answers all the same.

    Example:
        >>> answer = vlm.load("my_model").answer("photo.png", "what color is it?", top_k=2)
        >>> answer.top[0] == (answer.text, answer.probability), answer.warnings, answer.is_guess
        (True, (), False)
    """

    text: str
    probability: float
    top: list[tuple[str, float]]
    warnings: tuple[str, ...] = ()
    is_guess: bool = False
    calibrated: bool = False
    abstains: bool = False


class ReadsQuestions(Protocol):
    """What warnings ask of a tokenizer: see `vlm.text.Tokenizer`."""

    max_length: int

    def unknown(self, question: str) -> list[str]: ...
    def misses(self, question: str) -> bool: ...
    def tokens(self, question: str) -> list[str]: ...
    def length(self, question: str) -> int: ...


def question_warnings(tokenizer: ReadsQuestions, question: str) -> list[str]:
    """Reasons to doubt the answer to a question, one sentence each."""
    unknown = tokenizer.unknown(question)
    guess = " The answer is a guess." if tokenizer.misses(question) else ""
    warnings = []
    if unknown:
        all_of_them = len(unknown) >= len(tokenizer.tokens(question))
        which = "Every word" if all_of_them else ", ".join(repr(w) for w in unknown)
        verb = "is" if all_of_them or len(unknown) == 1 else "are"
        warnings.append(f"{which} {verb} unknown to the model: {question!r}.{guess}")
    elif guess:
        warnings.append(f"The question has no words: {question!r}.{guess}")
    if tokenizer.length(question) > tokenizer.max_length:
        warnings.append(f"Only the first {tokenizer.max_length} words were read.")
    return warnings


def checked_question(text: object, number: int) -> str:
    """A question in the one form of `clean_text`; a ValueError for one that asks nothing."""
    try:
        cleaned = clean_text(text)
    except ValueError as error:
        raise ValueError(f"question {number}: {error}.") from error
    if not cleaned.strip():
        raise ValueError(
            f"question {number}: got {text!r:.80}; expected text that asks about the image."
        )
    return cleaned


def checked_choices(choices: Any, single: bool, questions: int) -> list[list[str]]:
    """A list of choices for each question; a ValueError for any but two or more different texts."""
    lists = [choices] if single else choices
    wanted = "a list of texts" if single else "such a list for each question"
    if (
        isinstance(lists, str)
        or not isinstance(lists, Sequence)
        or not all(isinstance(given, Sequence) and not isinstance(given, str) for given in lists)
    ):
        raise ValueError(f"choices: got {choices!r}; expected {wanted}.")
    if len(lists) != questions:
        raise ValueError(
            f"choices: got {counted(len(lists), 'list')} for {counted(questions, 'question')}; "
            f"expected one for each."
        )
    checked = []
    for number, given in enumerate(lists, start=1):
        try:
            texts = [clean_text(text) if isinstance(text, str) else text for text in given]
        except ValueError as error:
            raise ValueError(f"choices of question {number}: {error}.") from error
        if mistake := mistake_in(texts):
            raise ValueError(f"choices of question {number}: {mistake}")
        checked.append(texts)
    return checked
