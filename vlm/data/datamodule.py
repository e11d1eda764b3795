"""From a data set's questions to Lightning's loaders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from vlm.batch import Batch
from vlm.data.choices import check_choices
from vlm.data.controls import BlankImages, Control, check_control, controlled
from vlm.data.dataset import VQADataset
from vlm.data.images import Images, ImageStore, PictureSource
from vlm.data.loader import ResumableLoader, outlive_a_signal
from vlm.data.questions import DataError, image_groups, split_by_image, stream
from vlm.data.regions import RegionFiles, RegionStore
from vlm.data.sampler import ImageGroupSampler
from vlm.data.shards import ShardPictures, Shards
from vlm.data.vocabulary import VocabularyRules, describe_vocabulary
from vlm.data.written import check_written
from vlm.fusion.base import check_positive
from vlm.heads.vocabulary import count_answers
from vlm.image.regions import RegionTransform
from vlm.metrics import vqa_accuracy
from vlm.part import Configured
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
        cache_images: decode every picture once, at the start, and keep it in memory.
        regions: features of regions in the place of pictures, for `vlm.image.RegionFeatures`: a
            folder of .npz files or a bottom-up-attention TSV, or several (`vlm.data.regions`).
        shards: where the pictures are, if not in their own files: in tar shards (`vlm shard`), of a
            folder or streamed (`vlm.data.shards`).
        seed: of the validation part and of the order of training.
        control: take one side away from every split, to see what a model reaches without it
            (`vlm.data.controls`). Vocabularies stay those of the full data.
    """

    types: ClassVar[Literal["answer_type", "question_type"]] = "answer_type"
    """The column of the questions that the report has a line for each value of."""
    shared_images: ClassVar[bool] = False
    """Whether the set's own splits have images in common; else that is a mistake."""
    watched: ClassVar[str | None] = None
    """An answer whose probability is kept for every question, for `summarize_watched`."""
    columns: Mapping[str, str] = {}
    """What the set's file calls our columns, for `vlm check-data`."""
    pictures: PictureSource | None = None
    """Where pictures come from if a table's `image` is no path."""

    def __init__(
        self,
        images_per_batch: int = 16,
        questions_per_image: int | None = None,
        validation_share: float = 0.1,
        vocabulary: VocabularyRules = VocabularyRules(),  # noqa: B008  frozen, so it is shared safely
        workers: int = 0,
        cache_images: bool = False,
        regions: str | list[str] | None = None,
        shards: Shards | None = None,
        seed: int = 0,
        control: Control | None = None,
    ) -> None:
        super().__init__()
        check_control(control)
        check_positive(images_per_batch=images_per_batch)
        if questions_per_image is not None:
            check_positive(questions_per_image=questions_per_image)
        if workers < 0:
            raise ValueError(f"workers: got {workers}; wanted 0 or more loader processes.")
        if regions is not None and shards is not None:
            raise ValueError(
                "regions and shards: got both; wanted one, for a model reads pictures or regions."
            )
        self.images_per_batch, self.questions_per_image = images_per_batch, questions_per_image
        self.validation_share, self.seed = validation_share, seed
        self.vocabulary = vocabulary
        self.workers, self.cache_images, self.regions = workers, cache_images, regions
        self.shards = shards
        self.control = control
        self._tables: dict[Split, pa.Table] = {}
        self._official: dict[Split, pa.Table | None] = {}
        self._stores: dict[Split, Images] = {}

    @abstractmethod
    def read(self, split: Split) -> pa.Table | None:
        """Questions of a split (`vlm.data.questions.SCHEMA`); None where the set has no such."""

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
            table: the scored questions (`vlm.data.questions.SCHEMA`), all with answers; after a
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
    def region_files(self) -> RegionFiles | None:
        """Where the features of regions are; None where pictures are read."""
        return None if self.regions is None else RegionFiles(self.regions)

    @cached_property
    def shard_pictures(self) -> ShardPictures | None:
        """The pictures in shards; None where they are not."""
        return None if self.shards is None else self.shards.open()

    def store(self, processor: Processor) -> ImageStore | RegionStore:
        """Where a model gets its pictures, or their regions.

        Raises:
            DataError: the model reads the one and the data give the other.
        """
        transform, files = processor.transform, self.region_files
        if isinstance(transform, RegionTransform):
            if files is None:
                raise DataError(
                    "The image encoder reads features of regions, and data.regions names none; "
                    "wanted a folder of .npz files or a bottom-up-attention TSV."
                )
            return RegionStore(transform, files)
        if files is not None:
            raise DataError(
                f"data.regions: got {self.regions}, and the image encoder reads pictures. Use "
                f"--model.image_encoder=configs/image/regions.yaml, or leave data.regions out."
            )
        return ImageStore(transform, self.shard_pictures or self.pictures)

    def setup(self, stage: str) -> None:
        splits: dict[str, tuple[Split, ...]] = {
            "fit": ("train", "validation"),
            "validate": ("validation",),
            "test": ("test",),
            "predict": ("predict",),
        }
        for split in splits[stage]:
            table = self.table(split)
            if split != "predict":
                self.check_answers(split)
            if self.processor.takes_choices:
                check_choices(table, split)
            assert self.trainer is not None
            check_written(self.trainer.lightning_module, table, split)
            if self.control == "question_only":
                self._stores[split] = BlankImages(self.processor.transform)
            elif split not in self._stores:
                store = self._stores[split] = self.store(self.processor)
                if self.region_files is not None:
                    self.region_files.check(table["image"].unique().to_pylist())
                elif self.shard_pictures is not None:
                    self.shard_pictures.check(table["image"].unique())
                if self.cache_images:
                    store.cache(table["image"].to_pylist(), table["id"].to_pylist(), split)

    def _loader(self, split: Split) -> DataLoader[Batch]:
        assert self.trainer is not None
        table = self.table(split)
        training = split == "train"
        world = self.trainer.world_size
        seen = controlled(table, self.control, self.seed)
        sampler = ImageGroupSampler(
            image_groups(seen),
            self.images_per_batch,
            self.questions_per_image if training else None,
            seed=self.seed if training else None,
            rank=self.trainer.global_rank,
            world=world,
            accumulate=self.trainer.accumulate_grad_batches if training else 1,
            shards=self._streamed_shards(seen) if training else None,
        )
        if training and sampler.units < world:
            raise DataError(
                f"{type(self).__name__}: {sampler.units} images to train on and {world} processes; "
                f"wanted an image for each. Use fewer processes."
            )
        return (ResumableLoader if training else DataLoader)(
            VQADataset(seen, self.processor, self._stores[split]),
            sampler=sampler,
            # The sampler gives the rows of a whole batch, and the data set returns that batch.
            batch_size=None,
            collate_fn=_unchanged,
            num_workers=self.workers,
            worker_init_fn=outlive_a_signal,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
        )

    def _streamed_shards(self, table: pa.Table) -> np.ndarray | None:
        """The shard of each image (`image_groups`), if shards are fetched one after the other."""
        pictures = None if self.control == "question_only" else self.shard_pictures
        if pictures is None or not pictures.streamed:
            return None
        return pictures.shards_of(table["image"].unique())

    def train_dataloader(self) -> DataLoader[Batch]:
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._loader("validation")

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Batch]:
        return self._loader("predict")


def _unchanged(batch: Any) -> Any:
    return batch
