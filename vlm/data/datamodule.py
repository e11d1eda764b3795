"""From a data set's questions to Lightning's loaders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from vlm.batch import Batch
from vlm.data.controls import Control, GreyImages, check_control, controlled
from vlm.data.dataset import VQADataset
from vlm.data.easy_vqa import read_easy_vqa
from vlm.data.images import ImageStore
from vlm.data.questions import image_groups, split_by_image
from vlm.data.sampler import ImageGroupSampler
from vlm.fusion.base import check_positive
from vlm.heads.vocabulary import count_answers
from vlm.processor import Processor
from vlm.text.tokenizer import count_words

Split = Literal["train", "validation", "test", "predict"]


@dataclass(frozen=True)
class VocabularyRules:
    """Which words and answers of the training questions enter the vocabularies.

    Args:
        min_word_count: rarer words are unknown words.
        min_answer_count: answers of fewer questions are left out.
        max_answers: at most so many answers; None for all.
    """

    min_word_count: int = 1
    min_answer_count: int = 1
    max_answers: int | None = None

    def __post_init__(self) -> None:
        check_positive(min_word_count=self.min_word_count, min_answer_count=self.min_answer_count)
        if self.max_answers is not None:
            check_positive(max_answers=self.max_answers)


class VQADataModule(LightningDataModule, ABC):
    """Base of the data sets: a subclass says how a split is read.

    Batches hold all questions of `images_per_batch` images, so that each is encoded once.

    Args:
        images_per_batch: images in a batch of one process.
        questions_per_image: in training, questions of an image are taken in groups of at most so
            many; None for all together, 1 for the usual independent sampling.
        validation_share: of the training images, held out where the set has no validation split.
        vocabulary: which words and answers of the training questions the model knows.
        workers: loader processes; 0 loads in the training process.
        cache_images: decode every picture once, at the start, and keep it in memory.
        seed: of the validation part and of the order of training.
        control: take one side away from every split, to see what a model reaches without it
            (`vlm.data.controls`). Vocabularies stay those of the full data.
    """

    def __init__(
        self,
        images_per_batch: int = 16,
        questions_per_image: int | None = None,
        validation_share: float = 0.1,
        vocabulary: VocabularyRules = VocabularyRules(),
        workers: int = 0,
        cache_images: bool = False,
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
        self.images_per_batch, self.questions_per_image = images_per_batch, questions_per_image
        self.validation_share, self.seed = validation_share, seed
        self.vocabulary = vocabulary
        self.workers, self.cache_images = workers, cache_images
        self.control = control
        self._tables: dict[Split, pa.Table] = {}
        self._stores: dict[Split, ImageStore] = {}

    @abstractmethod
    def read(self, split: Split) -> pa.Table | None:
        """Questions of a split (`vlm.data.questions.SCHEMA`); None where the set has no such."""

    def table(self, split: Split) -> pa.Table:
        """Questions of a split; reads it when it is first asked for.

        Raises:
            ValueError: the data set has no such split.
        """
        if split not in self._tables:
            table = self.read(split)
            if split in ("train", "validation") and self.read("validation") is None:
                whole = table if split == "train" else self.read("train")
                parts = split_by_image(whole, self.validation_share, self.seed)
                self._tables["train"], self._tables["validation"] = parts
            elif split == "predict" and table is None:
                self._tables["predict"] = self.table("test")
            elif table is None:
                raise ValueError(f"{type(self).__name__} has no {split} split.")
            else:
                self._tables[split] = table
        return self._tables[split]

    @cached_property
    def words(self) -> list[str]:
        """Words of the training questions."""
        return count_words(
            self.table("train")["question"].to_pylist(), self.vocabulary.min_word_count
        )

    @cached_property
    def answers(self) -> list[str]:
        """Answer vocabulary of the training questions."""
        given = self.table("train")["answers"].to_pylist()
        return count_answers(given, self.vocabulary.min_answer_count, self.vocabulary.max_answers)

    @property
    def processor(self) -> Processor:
        """The model's own; there is no other."""
        assert self.trainer is not None
        # Lightning types its module loosely; in our commands it is a `VQATask`.
        return self.trainer.lightning_module.model.processor  # type: ignore[union-attr, return-value]

    def setup(self, stage: str) -> None:
        splits: dict[str, tuple[Split, ...]] = {
            "fit": ("train", "validation"),
            "validate": ("validation",),
            "test": ("test",),
            "predict": ("predict",),
        }
        for split in splits[stage]:
            table = self.table(split)
            if self.control == "question_only":
                self._stores[split] = GreyImages(self.processor.transform)
            elif self.cache_images and split not in self._stores:
                store = ImageStore(self.processor.transform)
                store.cache(table["image"].to_pylist(), table["id"].to_pylist(), split)
                self._stores[split] = store

    def _loader(self, split: Split) -> DataLoader[Batch]:
        assert self.trainer is not None
        table = self.table(split)
        training = split == "train"
        sampler = ImageGroupSampler(
            image_groups(table),
            self.images_per_batch,
            self.questions_per_image if training else None,
            shuffle=training,
            seed=self.seed,
            rank=self.trainer.global_rank,
            world=self.trainer.world_size,
        )
        return DataLoader(
            VQADataset(
                controlled(table, self.control, self.seed),
                self.processor,
                self._stores.get(split),
            ),
            sampler=sampler,
            # The sampler gives the rows of a whole batch, and the data set returns that batch.
            batch_size=None,
            collate_fn=_unchanged,
            num_workers=self.workers,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
        )

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


class EasyVQA(VQADataModule):
    """easy-VQA (`vlm.data.easy_vqa`), with a validation part cut from its training images.

    Args:
        root: folder of the data; None takes the installed package `easy-vqa`.
        kwargs: as for every data set.
    """

    # Untyped on purpose: the command line reads the base's signature through `kwargs`.
    def __init__(self, root: Path | None = None, **kwargs) -> None:  # type: ignore[no-untyped-def]
        super().__init__(**kwargs)
        self.root = root

    def read(self, split: Split) -> pa.Table | None:
        return read_easy_vqa(split, self.root) if split in ("train", "test") else None
