"""Several data sets in one training, each with its own metric."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vlm.core.validation import counted
from vlm.datasets.base import Dataset, ImageSource, Score, Split
from vlm.datasets.errors import DataError, is_collecting
from vlm.datasets.readers.image_files import EmbeddedImages
from vlm.datasets.several import as_one, images_of
from vlm.datasets.table import joined, split_by_image, stream, with_column, with_rows
from vlm.datasets.vocabulary import VocabularyRules
from vlm.metrics import accuracy_by

SET: Final = "set"
"""The column of a mixture's tables with the name of each question's set."""
_NAME = re.compile(r"\w[\w-]*")
_NAMED = ("id", "pair", "group")
"""The columns whose names a set has for itself."""
_MARK = "|"
"""Between a set's name and an image that is no path."""


class Mixture(Dataset):
    """Several data sets in one training: one vocabulary over all, a report for each.

    Ids begin with the name of their set ("genome/986"), so ids of two sets cannot clash. Each
    answer is scored by the metric of its set. The overall accuracy is the mean over all questions,
    and `mean_over_sets` is the mean of the sets' accuracies. The report has a line for each set,
    and below it the set's own report with its own floors.

    Without `weights` and `temperature`, an epoch has every question once. With them, an epoch is as
    long, and each set contributes a fixed share of its images (each with at most
    `questions_per_image` of its questions). If the share is larger than the set, its images come
    several times in an epoch; if it is smaller, the next epoch continues with the next part. Over a
    training, the questions of a set come equally often, to within one time. The order is a function
    of seed and epoch.

    The mixture's `vocabulary` and `validation_share` replace those of the sets. The images of all
    sets without a validation split are divided together, so an image that two sets share is on one
    side.

    Args:
        datasets: two or more data sets by their names, which have letters, digits, `_` and `-`.
        weights: weight of each set by its name, above 0; its share is its weight divided by their
            sum.
        temperature: T, above 0; a set of n images has the share n^(1/T), divided by the sum over
            all sets (T5, arXiv 1910.10683, section 3.5.2). At 1, every question comes once per
            epoch; higher values make the shares more equal.
        auxiliary: names of sets that are used only for training, and in full: they are in no other
            split and add nothing to the answer vocabulary. Their questions without an answer in the
            vocabulary are left out, with a warning, as in BAN and MCAN with Visual Genome.
        validation_share, seed: held-out share and seed, as for `Dataset`, for the sets that have no
            validation split.
        vocabulary: vocabulary rules, as for `Dataset`, over all sets except the auxiliary ones.

    Raises:
        ValueError: fewer than two sets, an invalid name, weights that are not positive or not one
            for each set, weights and temperature together, or only auxiliary sets.

    Example:
        >>> shapes = vlm.datasets.EasyVQA()
        >>> mine = vlm.datasets.CustomDataset("my.jsonl", images="photos")
        >>> data = vlm.datasets.Mixture({"shapes": shapes, "mine": mine}, temperature=2)
        >>> data.shares([900, 100]).tolist()
        [0.75, 0.25]
    """

    types: ClassVar = SET

    def __init__(
        self,
        datasets: dict[str, Dataset],
        weights: dict[str, float] | None = None,
        temperature: float | None = None,
        auxiliary: list[str] | None = None,
        validation_share: float = 0.1,
        vocabulary: VocabularyRules = VocabularyRules(),
        seed: int = 0,
    ) -> None:
        super().__init__(validation_share, vocabulary, seed)
        _check_sets(datasets)
        if weights is not None:
            if temperature is not None:
                raise ValueError("weights and temperature: got both; expected one of them.")
            _check_weights(weights, datasets)
        if temperature is not None:
            _check_positive("temperature", temperature)
        for name in auxiliary or ():
            if name not in datasets:
                raise ValueError(f"auxiliary: got {name!r}; expected one of {', '.join(datasets)}.")
        if set(auxiliary or ()) == set(datasets):
            raise ValueError("auxiliary: got all sets; expected one that is validated at least.")
        self.datasets, self.weights, self.temperature = datasets, weights, temperature
        self.auxiliary = list(auxiliary or ())
        # At most one set has such an answer in a sensible mixture: VizWiz alone does.
        watched = (data.watched for data in datasets.values())
        self.watched = next(filter(None, watched), None)  # type: ignore[misc]  # for this object
        # A report has one such answer: none where the sets say it in different words.
        nothing = {data.unanswerable for data in datasets.values()} - {None}
        self.unanswerable = nothing.pop() if len(nothing) == 1 else None
        sources = {name: data.image_source for name, data in datasets.items() if data.image_source}
        self.image_source = _Sources(sources) if sources else None

    def read(self, split: Split) -> pa.Table | None:
        """Questions of a split, as for every data set.

        Raises:
            DataError: a set without training questions.
        """
        if split == "train":
            return joined([self._fit[0], *self._auxiliary()])
        if split == "validation":
            return self._fit[1]
        evaluated = [name for name in self.datasets if name not in self.auxiliary]
        read = {name: self.datasets[name].read(split) for name in evaluated}
        if split == "predict" and any(table is not None for table in read.values()):
            # A set without such a split is asked its test, as it is alone.
            read |= {name: self.datasets[name].read("test") for name in read if read[name] is None}
        tables = [self._named(name, table) for name, table in read.items() if table is not None]
        return joined(tables) if tables else None

    def check_images(self) -> None:
        for data in self.datasets.values():
            data.check_images()

    def scoring(self, table: pa.Table) -> Iterator[Score]:
        sets = self.datasets.items()
        own = {name: data.scoring(self.part(table, name)) for name, data in sets}
        return (next(own[name]) for (name,) in stream(table, SET))

    def summarize(
        self, table: pa.Table, predictions: Sequence[str], scores: Sequence[float]
    ) -> dict[str, float]:
        means = accuracy_by(scores, table[SET].to_pylist()).values()
        return {"mean_over_sets": math.fsum(mean.mean for mean in means) / len(means)}

    def check_sets(self, train: pa.Table) -> None:
        """Check that each set still has training questions.

        Args:
            train: the training questions whose images can be read.

        Raises:
            DataError: a set without training questions.
        """
        left = train[SET].unique().to_pylist()
        if lost := [name for name in self.datasets if name not in left]:
            raise DataError(
                f"datasets.{lost[0]}: data.images.skip_unreadable left out all of its training "
                "images; expected one at least that can be read. `vlm check-data` lists what is "
                "wrong with them. Correct them, or leave this set out of the mixture."
            )

    def part(self, table: pa.Table, name: str) -> pa.Table:
        """The questions of one set, with the ids that they have there."""
        table = table.filter(pc.equal(table[SET], name))
        for column in {*_NAMED} & {*table.column_names}:
            bare = pc.utf8_slice_codeunits(table[column], len(name) + 1)
            table = with_column(table, column, bare)
        return table

    def shares(self, units: Sequence[int] | np.ndarray) -> np.ndarray:
        """The share of each set in an epoch, in [0, 1] and with the sum 1.

        Args:
            units: for each set, in order, its images, each with at most `questions_per_image` of
                its questions.
        """
        if self.weights is not None:
            raw = np.array([self.weights[name] for name in self.datasets], np.float64)
        else:
            raw = np.asarray(units, np.float64) ** (1 / (self.temperature or 1.0))
        return raw / raw.sum()

    @property
    def has_shares(self) -> bool:
        """Whether `weights` or `temperature` set the shares of an epoch."""
        return self.weights is not None or self.temperature is not None

    def answer_tables(self) -> list[pa.Table]:
        return list(self._fit if self.vocabulary.answers_from == "train+val" else self._fit[:1])

    @cached_property
    def _fit(self) -> tuple[pa.Table, pa.Table]:
        """Training and validation questions of all sets but the auxiliary ones."""
        train, validation, whole = [], [], []
        for name in self.datasets:
            if name in self.auxiliary:
                continue
            table = self._training(name, self.datasets[name].read("train"))
            held_out = self.datasets[name].read("validation")
            if held_out is None:
                whole.append(table)
            else:
                train.append(table)
                validation.append(self._named(name, held_out))
        if whole:
            first, second = split_by_image(joined(whole), self.validation_share, self.seed)
            if lost := set(second[SET].to_pylist()) - set(first[SET].to_pylist()):
                raise DataError(
                    f"datasets.{min(lost)}: all of its images were held out for validation; "
                    "expected one at least to train on. Choose another `seed` or a smaller "
                    "`validation_share`."
                )
            train, validation = [*train, first], [*validation, second]
        return joined(train), joined(validation)

    def _auxiliary(self) -> Iterator[pa.Table]:
        known = set(self.answers) if self.auxiliary else set()
        for name in self.auxiliary:
            table = self._training(name, self.datasets[name].read_whole())
            kept = np.array([not known.isdisjoint(g or ()) for (g,) in stream(table, "answers")])
            if not kept.any():
                raise DataError(
                    f"datasets.{name}: none of its {counted(len(table), 'question')} has an answer "
                    "in the vocabulary of the other sets; leave it out, or do not name it in "
                    "`auxiliary`."
                )
            if not kept.all() and not is_collecting():
                warnings.warn(
                    f"datasets.{name}: left out {int((~kept).sum()):,} of its "
                    f"{counted(len(kept), 'question')}, which have no answer in the vocabulary of "
                    "the other sets.",
                    stacklevel=2,
                )
            yield with_rows(table, kept)

    def _training(self, name: str, table: pa.Table | None) -> pa.Table:
        if table is None or not len(table):
            raise DataError(
                f"datasets.{name}: {type(self.datasets[name]).__name__} has no training questions; "
                "expected one at least. Leave this set out of the mixture, or correct its files."
            )
        return self._named(name, table)

    def _named(self, name: str, table: pa.Table) -> pa.Table:
        """The table with its set's name in ids, in a column, and in images that are no paths."""
        for column in _NAMED:
            joint = pc.binary_join_element_wise(name, table[column].cast("string"), "/")
            table = with_column(table, column, joint)
        source = self.datasets[name].image_source
        if source is not None:
            marked = [
                as_one([f"{name}{_MARK}{i}" if _is_key(source, i) else i for i in images_of(image)])
                for image in table["image"].to_pylist()
            ]
            table = with_column(table, "image", pa.array(marked, pa.string()))
        return table.append_column(pa.field(SET, pa.string()), pa.array([name] * len(table)))


class _Sources:
    """From a mixture's `image` to what the source of its set makes of it."""

    def __init__(self, sources: Mapping[str, ImageSource]) -> None:
        self.sources = dict(sources)

    def __call__(self, image: str) -> str | bytes:
        name, mark, own = image.partition(_MARK)
        return self.sources[name](own) if mark and name in self.sources else image


def _is_key(source: ImageSource, image: str) -> bool:
    return image in source if isinstance(source, EmbeddedImages) else True


def _check_sets(datasets: Any) -> None:
    if not isinstance(datasets, dict) or len(datasets) < 2:
        raise ValueError(
            f"datasets: got {datasets!r:.80}; expected a dict of two or more, name -> data set."
        )
    for name, data in datasets.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(
                f"datasets: got the name {name!r:.80}; expected letters, digits, '_' and '-'."
            )
        if not isinstance(data, Dataset) or isinstance(data, Mixture):
            raise TypeError(
                f"datasets.{name}: got {data!r:.80}; expected a vlm.datasets.Dataset that is no "
                "mixture itself."
            )


def _check_weights(weights: Any, datasets: Mapping[str, Dataset]) -> None:
    if not isinstance(weights, dict) or set(weights) != set(datasets):
        raise ValueError(
            f"weights: got {weights!r:.120}; expected one for each of {', '.join(datasets)}."
        )
    for name, weight in weights.items():
        _check_positive(f"weights.{name}", weight)


def _check_positive(name: str, value: Any) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 < value < math.inf:
        raise ValueError(
            f"{name}: got {value!r:.80}; expected a finite number above 0. To leave a set out, "
            "take it out of `datasets`."
        )
