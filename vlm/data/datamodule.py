"""What a data set is: its splits, their vocabulary, and how an answer is scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal, cast

import pyarrow as pa
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from vlm.core.batch import Batch
from vlm.core.part import Configured
from vlm.core.validation import check_positive
from vlm.data.ablations import BlankImages, Control, check_control
from vlm.data.compatibility import check_fits
from vlm.data.features.cache import check_frozen
from vlm.data.features.encoded import seen_features
from vlm.data.images.memory import Keepers
from vlm.data.images.sources import OpenPictures, Pictures
from vlm.data.images.store import Images, PictureSource
from vlm.data.images.unreadable import check_alike, without_unreadable
from vlm.data.loader import ResumableLoader, make_loader
from vlm.datasets.table import DataError, check_share, split_by_image, stream
from vlm.datasets.vocabulary import VocabularyRules, describe_vocabulary
from vlm.heads.vocabulary import count_answers
from vlm.metrics import vqa_accuracy
from vlm.processor import Processor
from vlm.text.tokenizer import count_words

Split = Literal["train", "validation", "test", "predict"]


class VQADataModule(Configured, LightningDataModule, ABC):
    """Base of the data sets: a subclass says how a split is read, and how an answer is scored.

    The set's official metric comes with it: `score` judges one answer (the official VQA accuracy
    unless overridden) and is what floors, ceiling, reports and checkpoints go by; `summarize` adds
    what the set's evaluator reports beyond the mean; `types` names the column that means are
    reported by.

    Batches hold all questions of `images_per_batch` images, so that each is encoded once.

    Args:
        images_per_batch: images in a batch of one process.
        questions_per_image: in training, questions of an image are taken in groups of at most so
            many; None for all together, 1 for the usual independent sampling.
        validation_share: of the training images, held out where the set has no validation split.
        vocabulary: which words and answers the model knows.
        workers: loader processes; 0 loads in the training process.
        pictures: where they come from, and what is kept of them.
        seed: of the validation part and of the order of training.
        control: take one side away from every split, to see what a model reaches without it
            (`vlm.data.ablations`). Vocabularies stay those of the full data.

    Example:
        >>> data = vlm.datasets.EasyVQA(images_per_batch=4)
        >>> isinstance(data, vlm.data.VQADataModule), data.images_per_batch
        (True, 4)
    """

    types: ClassVar[Literal["answer_type", "question_type"]] = "answer_type"
    """The column of the questions that the report has a line for each value of."""
    shared_images: bool = False
    """Whether the set's own splits have images in common; else that is a mistake."""
    refuses_shared_questions: bool = False
    """Whether it is an error, not a warning, if a question is both trained on and scored."""
    watched: ClassVar[str | None] = None
    """An answer whose probability is kept for every question, for `summarize_watched`."""
    picture_source: PictureSource | None = None
    """Where pictures come from if a table's `image` is no path."""
    alive: Callable[[], None] = staticmethod(lambda: None)
    """Called now and then in what takes long, and is no batch."""
    overfits: bool = False
    """Whether each epoch has the same batches, in the order of the table (`overfit_batches`)."""

    def __init__(
        self,
        images_per_batch: int = 16,
        questions_per_image: int | None = None,
        validation_share: float = 0.1,
        vocabulary: VocabularyRules = VocabularyRules(),  # noqa: B008  frozen, so it is shared safely
        workers: int = 0,
        pictures: Pictures = Pictures(),  # noqa: B008
        seed: int = 0,
        control: Control | None = None,
    ) -> None:
        super().__init__()
        check_control(control)
        check_positive(images_per_batch=images_per_batch)
        if questions_per_image is not None:
            check_positive(questions_per_image=questions_per_image)
        for name, value, kind in (
            ("pictures", pictures, Pictures),
            ("vocabulary", vocabulary, VocabularyRules),
        ):
            if not isinstance(value, kind):
                raise TypeError(
                    f"{name}: got {value!r:.80}; expected a {kind.__module__}.{kind.__name__}."
                )
        if not isinstance(workers, int) or workers < 0:
            raise ValueError(f"workers: got {workers}; wanted 0 or more loader processes.")
        check_share(validation_share)
        self.images_per_batch, self.questions_per_image = images_per_batch, questions_per_image
        self.validation_share, self.seed = validation_share, seed
        self.vocabulary = vocabulary
        self.workers, self.pictures, self.control = workers, pictures, control
        self._tables: dict[Split, pa.Table] = {}
        self._official: dict[Split, pa.Table | None] = {}
        self._stores: dict[Split, Images] = {}
        self._whole: set[Split] = set()
        self._train: ResumableLoader | None = None
        self._place: dict[str, Any] = {}

    @abstractmethod
    def read(self, split: Split) -> pa.Table | None:
        """Questions of a split (`vlm.datasets.table.SCHEMA`); None where the set has no such.

        The schema's metadata may say what the file calls our columns, for `vlm check-data`.
        """

    def score(self, prediction: str, answers: Sequence[str]) -> float:
        """Accuracy of one answer, in [0, 1], by the set's official metric.

        Override it with a pure function of `vlm.metrics` where that is not VQA accuracy. With one
        annotator VQA accuracy is agreement to the letter, so a set with single answers and simple
        accuracy needs nothing of its own.

        Args:
            prediction: the answer given.
            answers: what the annotators wrote, at least one.
        """
        return vqa_accuracy(prediction, answers)

    def summarize(
        self, table: pa.Table, predictions: Sequence[str], scores: Sequence[float]
    ) -> dict[str, float]:
        """What the set's official metric reports beyond the mean and the means by type.

        Args:
            table: the scored questions (`vlm.datasets.table.SCHEMA`), all with answers; after a
                limited run these are some of the split's.
            predictions: the answer given to each.
            scores: `score` of each.

        Returns:
            Figures by name (`lower_case`; the log, the report and `test.json` use it), shares in
            [0, 1]. Empty by default.
        """
        return {}

    def summarize_watched(
        self, table: pa.Table, probabilities: Sequence[float]
    ) -> dict[str, float]:
        """The same for what goes by the probability of `watched`.

        Asked only of a model that has this answer in its vocabulary.

        Args:
            table: as for `summarize`.
            probabilities: that the model gives the answer `watched`, in [0, 1], for each question.
        """
        return {}

    def table(self, split: Split) -> pa.Table:
        """Questions of a split; reads it when it is first asked for.

        Raises:
            DataError: the data set has no such split, or cannot be read.
        """
        if split not in self._tables:
            table = self._read_once(split)
            if split in ("train", "validation") and self._read_once("validation") is None:
                whole = self._read_once("train")
                parts = split_by_image(whole, self.validation_share, self.seed)
                self._tables["train"], self._tables["validation"] = parts
            elif split == "predict" and table is None:
                self._tables["predict"] = self.table("test")
            elif table is None:
                raise DataError(f"{type(self).__name__} has no {split} split here.")
            else:
                self._tables[split] = table
        return self._tables[split]

    def has(self, split: Split) -> bool:
        """Whether the set has this split; validation may be a part of train."""
        return split == "validation" or self._read_once(split) is not None

    def _read_once(self, split: Split) -> pa.Table | None:
        if split not in self._official:
            self._official[split] = self.read(split)
        return self._official[split]

    def check_answers(self, split: Split) -> None:
        """Check that a split can be learned from and scored.

        Raises:
            DataError: questions without answers, with their number and the remedy.
        """
        table = self.table(split)
        if missing := table["answers"].null_count:
            raise DataError(
                f"{type(self).__name__}: {missing:,} of the {len(table):,} {split} questions have "
                f"no answers, so nothing can be learned from them or scored. `vlm predict` writes "
                f"the model's answers to questions without; `vlm submit` makes an evaluation "
                f"server's file of these."
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
        splits: tuple[Split, ...] = ("train",)
        if rules.answers_from == "train+val":
            splits = ("train", "validation")
        return count_answers(
            (given for split in splits for (given,) in stream(self.table(split), "answers")),
            rules.min_answer_count,
            rules.max_answers,
            rules.normalize_answers,
        )

    def describe_answers(self) -> dict[str, Any]:
        """What a checkpoint keeps about the answer vocabulary (`describe_vocabulary`).

        Raises:
            DataError: validation has no answers.
        """
        self.check_answers("validation")
        known = (given for (given,) in stream(self.table("validation"), "answers"))
        return describe_vocabulary(self.answers, self.vocabulary, known, self.score)

    @property
    def processor(self) -> Processor:
        """The model's own; there is no other."""
        assert self.trainer is not None
        # Lightning types its module loosely; in our commands it is a `VQATask`.
        return self.trainer.lightning_module.model.processor  # type: ignore[union-attr, return-value]

    @cached_property
    def open_pictures(self) -> OpenPictures:
        """The files that pictures are read from."""
        return OpenPictures(self.pictures, self.picture_source)

    def skip_unreadable(self, split: Split) -> None:
        """Leave questions out whose pictures cannot be read, as far as `pictures` allows it; once.

        Raises:
            DataError: more pictures than that.
        """
        at_most = self.pictures.skip_unreadable
        if at_most and split in ("train", "validation") and split not in self._whole:
            whole = without_unreadable(self.table(split), self.open_pictures, split, at_most)
            self._tables[split] = whole
            self._whole.add(split)

    def setup(self, stage: str) -> None:
        splits: dict[str, tuple[Split, ...]] = {
            "fit": ("train", "validation"),
            "validate": ("validation",),
            "test": ("test",),
            "predict": ("predict",),
        }
        if stage == "fit" and self.pictures.features is not None:
            check_frozen(self.pictures.features, self.trainer)
        trainer, transform = self.trainer, self.processor.transform
        assert trainer is not None
        if stage == "fit" and trainer.overfit_batches:  # type: ignore[attr-defined]
            # Lightning has set its limits by now, and would also replace our sampler with its own.
            self.overfits, trainer.overfit_batches = True, 0.0  # type: ignore[attr-defined]
        keepers = Keepers(trainer.num_devices, trainer.strategy.barrier)
        for split in splits[stage]:
            check_fits(self, split, trainer.lightning_module.model)  # type: ignore[arg-type]
            if self.control == "question_only":
                self._stores[split] = BlankImages(transform)
            elif split not in self._stores:
                self.skip_unreadable(split)
                if split in self._whole:
                    check_alike(self.table(split), split, trainer.strategy)
                self._stores[split] = self.open_pictures.filled(
                    transform, self.table(split), split, keepers
                )

    def _loader(self, split: Split) -> DataLoader[Batch]:
        images = self._stores[split]
        if self.pictures.features is not None:
            # Now, and not in `setup`: by now the model has the weights of its checkpoint.
            assert self.trainer is not None
            task = self.trainer.lightning_module
            encoder: Any = task.model.image_encoder  # type: ignore[union-attr]
            images = seen_features(self, split, encoder)
        return make_loader(self, split, images)

    def train_dataloader(self) -> DataLoader[Batch]:
        self._train = cast(ResumableLoader, self._loader("train"))
        if self._place:
            self._train.load_state_dict(self._place)
            self._place = {}
        return self._train

    def state_dict(self) -> dict[str, Any]:
        """How far the training is, for a checkpoint (`ResumableLoader`)."""
        return self._train.state_dict() if self._train else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Before the loader is made, or after it under a strategy that divides the model first.
        self._place = state_dict
        if self._train:
            self._train.load_state_dict(state_dict)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._loader("validation")

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Batch]:
        return self._loader("predict")
