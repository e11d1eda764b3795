"""The answer vocabulary: which answers a classifier can give."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import torch

from vlm.core.clean_text import clean_vocabulary
from vlm.core.validation import check_positive, counted
from vlm.heads.losses import AnswerCounts
from vlm.metrics import normalize_answer, vqa_accuracy


def count_answers(
    answers: Iterable[Sequence[str] | None],
    min_count: int = 1,
    max_size: int | None = None,
    normalize: bool = False,
) -> list[str]:
    """The answers of the training questions, most frequent first, ties in alphabetical order.

    With `min_count=9, normalize=True` over training and validation questions this is the rule of
    BUTD (Anderson et al., CVPR 2018; its `compute_softscore.py`), which gives 3,129 on VQA v2.

    Args:
        answers: for each question, its annotators' answers, or None if they are unknown; the most
            frequent one counts (the first on a tie), like VQA v2's `multiple_choice_answer`.
        min_count: smallest number of questions with an answer for the vocabulary to keep it.
        max_size: largest number of answers to keep; None for all.
        normalize: whether to count and return that answer as the official evaluator writes it
            (`normalize_answer`).

    Raises:
        ValueError: rules that leave no answer.
    """
    check_positive(min_count=min_count)
    if max_size is not None:
        check_positive(max_size=max_size)
    most = (Counter(given).most_common(1)[0][0] for given in answers if given)
    counts = Counter(map(normalize_answer, most) if normalize else most)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    kept = [answer for answer, n in ranked if n >= min_count][:max_size]
    if not counts:
        raise ValueError("The training questions have no answers; expected some to learn from.")
    if not kept:
        raise ValueError(
            f"The training questions have {counted(len(counts), 'different answer')} and none "
            f"occurs at least min_count={min_count} times; lower it."
        )
    return kept


class AnswerVocabulary:
    """The answers a classifier can give, in the order of its outputs.

    Args:
        answers: each answer once.

    Raises:
        ValueError: no answers, or one that occurs twice.

    Example:
        >>> vocabulary = vlm.heads.AnswerVocabulary(["yes", "no", "red"])
        >>> len(vocabulary), "red" in vocabulary
        (3, True)
        >>> vocabulary.indices(["red", "yes"])
        [2, 0]
    """

    def __init__(self, answers: Sequence[str]) -> None:
        if isinstance(answers, str):
            raise ValueError(f"answers: got {answers!r:.80}; expected a list of texts.")
        self.answers = clean_vocabulary(answers)
        self._ids = {answer: i for i, answer in enumerate(self.answers)}
        # Answers that the evaluator takes for one; a score never goes beyond these.
        self._alike: dict[str, list[str]] = {}
        for answer in self.answers:
            self._alike.setdefault(normalize_answer(answer), []).append(answer)
        if not self.answers:
            raise ValueError("answers: got none; expected at least one answer.")
        if len(self._ids) != len(self.answers):
            twice = next(a for a, n in Counter(self.answers).items() if n > 1)
            raise ValueError(f"answers: got {twice!r} more than once; expected each answer once.")

    def __len__(self) -> int:
        return len(self.answers)

    def __contains__(self, answer: str) -> bool:
        return answer in self._ids

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits that identify these answers in this order."""
        return hashlib.sha256("\n".join(self.answers).encode()).hexdigest()[:12]

    def indices(self, answers: Sequence[str]) -> list[int]:
        """The output of each answer.

        Raises:
            ValueError: an answer that is not in the vocabulary.
        """
        for answer in answers:
            if answer not in self._ids:
                raise ValueError(
                    f"answers: got {answer!r}, which is none of the model's {len(self):,} answers; "
                    f"expected one of them, such as {', '.join(map(repr, self.answers[:3]))}."
                )
        return [self._ids[answer] for answer in answers]

    def encode(
        self, answers: Sequence[Sequence[str]], choices: Sequence[Sequence[str]] | None = None
    ) -> AnswerCounts:
        """Count, for each question, how many annotators gave each answer of the vocabulary.

        Annotators' answers are compared exactly, as in the literature (BUTD, ViLT, METER), even if
        the vocabulary is normalised; on 8,977 questions of VQA v2 this loses 0.2 % of them.
        `choices` exists only for the signature of `AnswerHead.encode_targets`.
        """
        known = [
            row * len(self) + self._ids[answer]
            for row, given in enumerate(answers)
            for answer in given
            if answer in self._ids
        ]
        counts = torch.zeros(len(answers) * len(self))
        counts.index_add_(0, torch.tensor(known, dtype=torch.long), torch.ones(len(known)))
        annotators = torch.tensor([float(len(given)) for given in answers])
        return AnswerCounts(counts.view(-1, len(self)), annotators)

    def best_score(
        self, answers: Sequence[str], score: Callable[[str, Sequence[str]], float] = vqa_accuracy
    ) -> float:
        """The best accuracy in [0, 1] that this vocabulary can earn on one question.

        Args:
            answers: the annotators' answers.
            score: function that scores an answer; it must give 0 for an answer whose normal form no
                annotator wrote.
        """
        forms = {normalize_answer(answer) for answer in answers}
        alike = (answer for form in forms for answer in self._alike.get(form, ()))
        return max((score(answer, answers) for answer in alike), default=0.0)
