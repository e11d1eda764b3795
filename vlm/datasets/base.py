"""A data set: its splits, their vocabulary, and how an answer is scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import repeat
from statistics import fmean
from typing import Any, ClassVar, Literal, get_args

import pyarrow as pa

from vlm.core.part import Configured
from vlm.core.validation import check_seed
from vlm.datasets.presence import Presence
from vlm.datasets.table import DataError, check_share, split_by_image, stream
from vlm.datasets.vocabulary import VocabularyRules
from vlm.heads.vocabulary import AnswerVocabulary, count_answers
from vlm.metrics import vqa_accuracy
from vlm.text.words import count_words

Split = Literal["train", "validation", "test", "predict"]
ImageSource = Callable[[str], str | bytes]
"""From a table's `image` to a path, or to the content of an image file."""
Score = Callable[[str, Sequence[str]], float]
"""Accuracy of one answer, as `Dataset.score`."""


class Dataset(Configured, ABC):
    """Base of the data sets: a subclass defines how a split is read, and how an answer is scored.

    A data set includes its official metric. `score` judges one answer (by the official VQA accuracy
    unless overridden); floors, ceiling, reports and the choice of checkpoints use it. `summarize`
    adds what the set's evaluator reports beyond the mean. `types` names the column by whose values
    means are reported.

    Args:
        validation_share: share of the training images held out if the set has no validation split,
            in (0, 1).
        vocabulary: rules for the words and answers that enter the vocabularies.
        seed: seed of the choice of held-out images.

    Example:
        >>> import pyarrow as pa
        >>> from vlm.datasets.table import question_table
        >>> class Shapes(vlm.datasets.Dataset):
        ...     def read(self, split):
        ...         if split not in ("train", "test"):
        ...             return None
        ...         rows = [{"id": f"{split} {n}", "image": f"{split}{n}.png", "question": "Round?",
        ...                  "answers": ["yes" if n % 2 else "no"]} for n in range(10)]
        ...         return question_table(rows, "shapes")
        >>> shapes = Shapes(validation_share=0.2)
        >>> len(shapes.table("train")), len(shapes.table("validation")), shapes.answers
        (8, 2, ['yes', 'no'])
    """

    types: ClassVar[Literal["answer_type", "question_type", "set"]] = "answer_type"
    """The column of the questions that the report has a line for each value of."""
    shared_images: bool = False
    """Whether the set's own splits have images in common; else that is a mistake."""
    refuses_shared_questions: bool = False
    """Whether it is an error, not a warning, if a question is both trained on and scored."""
    watched: ClassVar[str | None] = None
    """An answer whose probability is kept for every question, for `summarize_watched`."""
    unanswerable: str | None = None
    """The answer to a question that has no other one, such as "unanswerable"."""
    image_source: ImageSource | None = None
    """Where images come from if a table's `image` is no path."""

    def __init__(
        self,
        validation_share: float = 0.1,
        vocabulary: VocabularyRules = VocabularyRules(),
        seed: int = 0,
    ) -> None:
        if not isinstance(vocabulary, VocabularyRules):
            raise TypeError(
                f"vocabulary: got {vocabulary!r:.80}; expected a "
                f"{VocabularyRules.__module__}.{VocabularyRules.__name__}."
            )
        check_share(validation_share)
        check_seed(seed)
        self.validation_share, self.vocabulary, self.seed = validation_share, vocabulary, seed
        self._tables: dict[Split, pa.Table] = {}
        self._official: dict[Split, pa.Table | None] = {}

    @abstractmethod
    def read(self, split: Split) -> pa.Table | None:
        """Questions of a split (`vlm.datasets.table.SCHEMA`); None if the set has no such split.

        The schema's metadata may name the file's own columns, for `vlm check-data`.
        """

    def read_whole(self) -> pa.Table | None:
        """All questions of the training files, with nothing held out for other splits."""
        return self.read("train")

    def check_images(self) -> None:
        """Check that the images' folder exists; called before images are read from it.

        Raises:
            DataError: it is not.
        """

    def score(self, prediction: str, answers: Sequence[str]) -> float:
        """Accuracy of one answer, in [0, 1], by the set's official metric.

        Override it with a pure function of `vlm.metrics` if the metric is not VQA accuracy. With
        one annotator, VQA accuracy is exact agreement, so a set with single answers and simple
        accuracy need not override it.

        Args:
            prediction: the model's answer.
            answers: the annotators' answers, at least one.
        """
        return vqa_accuracy(prediction, answers)

    def scoring(self, table: pa.Table) -> Iterator[Score]:
        """An iterator with the metric of each question of a table, which may be endless: `score`,
        unless the questions come from several sets (`vlm.datasets.Mixture`)."""
        return repeat(self.score)

    def scores(self, table: pa.Table, predictions: Iterable[str]) -> list[float]:
        """Accuracy in [0, 1] of an answer to each question of a table, all with answers."""
        rows = zip(predictions, stream(table, "answers"), strict=True)
        pairs = zip(self.scoring(table), rows, strict=False)  # the first may have no end
        return [score(answer, given) for score, (answer, (given,)) in pairs]

    def summarize(
        self, table: pa.Table, predictions: Sequence[str], scores: Sequence[float]
    ) -> dict[str, float]:
        """Figures that the set's official metric reports beyond the mean and the means by type.

        Args:
            table: the scored questions (`vlm.datasets.table.SCHEMA`), all with answers; after a
                limited run, only some of the split's.
            predictions: the answer given to each.
            scores: `score` of each answer.

        Returns:
            Figures by name (`lower_case`; the log, the report and `test.json` use it), shares in
            [0, 1]. Empty by default.
        """
        return {}

    def summarize_watched(
        self, table: pa.Table, probabilities: Sequence[float]
    ) -> dict[str, float]:
        """Figures that the set's official metric reports on the probability of `watched`.

        Called only for a model that has this answer in its vocabulary.

        Args:
            table: the scored questions, as for `summarize`.
            probabilities: probability of the answer `watched` for each question, in [0, 1].
        """
        return {}

    def presence(self, split: Split) -> Presence | None:
        """The objects that are known to be in the images of a split; None if nothing is known.

        Raises:
            DataError: a malformed file of objects.
        """
        return None

    def table(self, split: Split) -> pa.Table:
        """Questions of a split, which is read at the first call.

        Raises:
            FileNotFoundError: a file of the data set is missing.
            DataError: the data set has no such split, or cannot be read.
        """
        if split not in get_args(Split):
            expected = ", ".join(get_args(Split))
            raise DataError(f"split: got {split!r}; expected one of {expected}.")
        if split not in self._tables:
            table = self._read_once(split)
            if split in ("train", "validation") and self._read_once("validation") is None:
                whole = self._read_once("train")
                parts = split_by_image(whole, self.validation_share, self.seed)
                self._tables["train"], self._tables["validation"] = parts
            elif split == "predict" and table is None:
                self._tables["predict"] = self.table("test")
            elif table is None:
                raise DataError(f"{type(self).__name__} has no {split} split.")
            else:
                self._tables[split] = table
        return self._tables[split]

    def has(self, split: Split) -> bool:
        """Whether the set has this split; validation may be split off from train."""
        return split == "validation" or self._read_once(split) is not None

    def _read_once(self, split: Split) -> pa.Table | None:
        if split not in self._official:
            self._official[split] = self.read(split)
        return self._official[split]

    def check_answers(self, split: Split) -> None:
        """Check that a model can be trained and scored on a split.

        Raises:
            DataError: questions without answers, with their number and the remedy.
        """
        table = self.table(split)
        if missing := table["answers"].null_count:
            raise DataError(
                f"{type(self).__name__}: got {missing:,} of the {len(table):,} {split} questions "
                f"without answers, to learn from or to score by. `vlm predict` writes the model's "
                f"answers; `vlm submit` converts these for an evaluation server."
            )

    @cached_property
    def words(self) -> list[str]:
        """Words of the training questions."""
        questions = (question for (question,) in stream(self.table("train"), "question"))
        return count_words(questions, self.vocabulary.min_word_count)

    @cached_property
    def words_with_choices(self) -> list[str]:
        """Words of the training questions and of their choices."""
        rows = stream(self.table("train"), "question", "choices")
        texts = (text for question, choices in rows for text in (question, *(choices or ())))
        return count_words(texts, self.vocabulary.min_word_count)

    @cached_property
    def answers(self) -> list[str]:
        """The answer vocabulary (`VocabularyRules`)."""
        rules = self.vocabulary
        return count_answers(
            (given for table in self.answer_tables() for (given,) in stream(table, "answers")),
            rules.min_answer_count,
            rules.max_answers,
            rules.normalize_answers,
        )

    def answer_tables(self) -> list[pa.Table]:
        """The questions whose answers enter the vocabulary."""
        splits: list[Split] = ["train"]
        if self.vocabulary.answers_from == "train+val":
            splits.append("validation")
        return [self.table(split) for split in splits]

    def describe_answers(self) -> dict[str, Any]:
        """Facts about the answer vocabulary that a checkpoint keeps, in addition to the answers.

        Returns:
            Its size, hash, source split and rules, and its ceiling: the best mean score in [0, 1]
            that it can reach on validation.

        Raises:
            DataError: validation has no answers.
        """
        self.check_answers("validation")
        vocabulary, rules = AnswerVocabulary(self.answers), self.vocabulary
        table = self.table("validation")
        known = zip(self.scoring(table), stream(table, "answers"), strict=False)
        return {
            "size": len(vocabulary),
            "hash": vocabulary.hash,
            "from": rules.answers_from,
            "min_count": rules.min_answer_count,
            "max_size": rules.max_answers,
            "normalized": rules.normalize_answers,
            "validation_ceiling": fmean(vocabulary.best_score(n, score) for score, (n,) in known),
        }
