"""What a check of a data set finds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from vlm.datasets.base import Split
from vlm.datasets.errors import Problems
from vlm.heads.base import AnswerKind
from vlm.heads.vocabulary import AnswerVocabulary


@dataclass
class SplitSummary:
    """Of one split, in numbers of questions, different images and different questions.

    Attributes:
        answered: questions with answers.
        answers: how often each answer was given.
        words: number of questions by their number of words.
        floors: mean accuracy in [0, 1] of the floors and the ceiling; empty where answers are
            unknown, or choices to answer from are wrong.
        unanswerable: questions on which the best answer that can be given earns nothing.
    """

    questions: int = 0
    images: int = 0
    different: int = 0
    answered: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    words: Counter[int] = field(default_factory=Counter)
    floors: dict[str, float] = field(default_factory=dict)
    unanswerable: int = 0


@dataclass
class DataCheck:
    """What a check found: errors must be fixed, warnings may be intended.

    Attributes:
        splits: by name; those that could be read.
        kind: how the model answers, which floors and ceiling go by.
        vocabulary: of answers, as a training would make it; None where none could be made, or the
            model answers from no vocabulary.
        unused: columns that are not read, by file.
    """

    errors: Problems
    warnings: Problems
    splits: dict[Split, SplitSummary] = field(default_factory=dict)
    kind: AnswerKind = "vocabulary"
    vocabulary: AnswerVocabulary | None = None
    unused: dict[str, list[str]] = field(default_factory=dict)
