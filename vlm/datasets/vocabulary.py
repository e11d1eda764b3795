"""By which rules a data set's vocabularies are built, and how reports describe one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vlm.core.validation import check_positive, counted


@dataclass(frozen=True)
class VocabularyRules:
    """Which words of the training questions, and which answers, enter the vocabularies.

    The literature's rules for VQA v2: min_answer_count 9, normalize_answers, answers_from
    train+val, which gives 3,129 (BUTD, BAN, ViLT, METER and others); or max_answers 3000 (BLOCK).

    Args:
        min_word_count: fewest occurrences of a word in the vocabulary; rarer words are unknown.
        min_answer_count: fewest questions that an answer must have to enter.
        max_answers: most answers in the vocabulary; None for all.
        normalize_answers: count answers as the official evaluator writes them ("two" is "2").
        answers_from: "train+val" also counts validation answers: usual in the literature, but they
            leak into every validation score, as reports state.
    """

    min_word_count: int = 1
    min_answer_count: int = 1
    max_answers: int | None = None
    normalize_answers: bool = False
    answers_from: Literal["train", "train+val"] = "train"

    def __post_init__(self) -> None:
        check_positive(min_word_count=self.min_word_count, min_answer_count=self.min_answer_count)
        if self.max_answers is not None:
            check_positive(max_answers=self.max_answers)
        if self.answers_from not in ("train", "train+val"):
            raise ValueError(
                f"answers_from: got {self.answers_from!r}; expected one of train, train+val."
            )


def vocabulary_in_words(about: Mapping[str, Any]) -> str:
    """An answer vocabulary's size, hash, source and ceiling, as they stand beside scores; `about`
    is what `Dataset.describe_answers` gave, or its size and hash alone."""
    source = {
        "train": "from the training questions",
        "train+val": "from training and validation questions, so that validation leaks into it",
    }.get(about.get("from", ""), "of unknown source")
    ceiling = about.get("validation_ceiling")
    reach = f", {100 * ceiling:.2f} % of validation at best" if ceiling is not None else ""
    size = counted(about["size"], "answer")
    return f"the {size} of the vocabulary ({about['hash']}, {source}{reach})"
