"""Reasons to doubt an answer, in one sentence each.

Nothing here needs torch: an exported model warns in the same way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol


class ReadsQuestions(Protocol):
    """What warnings ask of a tokenizer: see `vlm.text.Tokenizer`."""

    max_length: int
    keeps: ClassVar[str]  # "first" or "last", of a question that is too long
    unit: ClassVar[str]  # "words" or "tokens"

    def ids(self, question: str) -> Sequence[int]: ...
    def unknown(self, question: str) -> list[str]: ...
    def misses(self, question: str) -> bool: ...
    def length(self, question: str) -> int: ...


def question_warnings(tokenizer: ReadsQuestions, question: str) -> list[str]:
    """Reasons to doubt the answer to a question, one sentence each."""
    unknown = tokenizer.unknown(question)
    guess = " The answer is a guess." if tokenizer.misses(question) else ""
    warnings = []
    if unknown:
        all_of_them = len(unknown) >= tokenizer.length(question)
        which = "Every word" if all_of_them else ", ".join(repr(w) for w in unknown)
        verb = "is" if all_of_them or len(unknown) == 1 else "are"
        warnings.append(f"{which} {verb} unknown to the model: {question!r}.{guess}")
    elif guess:
        warnings.append(f"The question has no words: {question!r}.{guess}")
    if tokenizer.length(question) > tokenizer.max_length:
        kept = f"{tokenizer.keeps} {tokenizer.max_length} {tokenizer.unit}"
        warnings.append(f"Only the {kept} were read.")
    return warnings


def missing_warnings(
    no_image: bool, no_question: bool, trained: Mapping[str, Any] | None
) -> list[str]:
    """What an answer is worth that lacks a side.

    Args:
        no_image, no_question: what is missing.
        trained: the model's `data.augment`, which says whether it learned to do without.
    """
    for missing, there, side, other in (
        (no_image, "no_image", "image", "question"),
        (no_question, "no_question", "question", "image"),
    ):
        if missing:
            learned = bool((trained or {}).get(there))
            how = "" if learned else f", and the model never learned to do without an {side}"
            how = how.replace("an question", "a question")
            return [f"No {side} was given: the answer is from the {other} alone{how}."]
    return []


def choice_warnings(
    tokenizer: ReadsQuestions,
    choices: Sequence[str],
    in_order: bool,
    choice_ids: Callable[[str], list[int] | None],
) -> list[str]:
    """Reasons to doubt an answer that was picked from these choices, one sentence each.

    Args:
        tokenizer: of the text encoder.
        choices: the choices of one question.
        in_order: whether the order of the words changes anything to the text encoder.
        choice_ids: a head's own tokens of a choice; None of a head that reads none itself.
    """
    warnings = []
    read: defaultdict[tuple[int, ...], list[str]] = defaultdict(list)
    for text in choices:
        if (read_by_head := choice_ids(text)) is not None:
            read[tuple(read_by_head)].append(text)
            continue
        ids = tokenizer.ids(text)[: tokenizer.max_length]
        read[tuple(ids if in_order else sorted(ids))].append(text)
        if unknown := tokenizer.unknown(text):
            words = ", ".join(map(repr, unknown))
            warnings.append(f"Unknown to the model in the choice {text!r}: {words}.")
        elif not tokenizer.ids(text):
            warnings.append(f"The choice has no words: {text!r}.")
        if tokenizer.length(text) > tokenizer.max_length:
            kept = f"first {tokenizer.max_length} {tokenizer.unit}"
            warnings.append(f"Only the {kept} of the choice {text!r:.80} were read.")
    for same in read.values():
        if len(same) > 1:
            texts = ", ".join(f"{text!r:.80}" for text in same)
            warnings.append(f"The model cannot tell these choices apart: {texts}.")
    return warnings
