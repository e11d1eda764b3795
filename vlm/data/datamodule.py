"""From a data set to the batches of a trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from math import ceil, prod
from typing import Any, cast

import numpy as np
import pyarrow as pa
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from vlm.core.batch import Batch
from vlm.core.part import Configured
from vlm.core.validation import check_positive, check_seed, counted
from vlm.data.ablations import SIDES, BlankImages, Control, controlled
from vlm.data.augmentation.options import Augment, Augmenter
from vlm.data.batches import TeacherInput, VQADataset
from vlm.data.compatibility import check_compatible, check_images
from vlm.data.features.cache import FeatureCache
from vlm.data.features.frozen import (
    BlankFeatures,
    check_cacheable,
    check_frozen,
    kept_images,
    sees_images,
)
from vlm.data.features.store import FeatureStore
from vlm.data.images.memory import LocalProcesses, check_batch
from vlm.data.images.sources import ImageOptions, OpenImages
from vlm.data.images.store import Images, ImageStore
from vlm.data.images.unreadable import check_alike, without_unreadable
from vlm.data.loader import ResumableLoader, make_loader
from vlm.data.sampler import ImageGroupSampler, Mixing
from vlm.datasets.base import Dataset, Split
from vlm.datasets.mixture import SET, Mixture
from vlm.datasets.several import different_images, first_images, most_images
from vlm.datasets.table import DataError, image_groups, stream
from vlm.image.base import ImageEncoder, PixelEncoder
from vlm.image.regions import RegionTransform
from vlm.image.transform import ImageTransform
from vlm.model import VQAModel
from vlm.processor import Processor

SPLITS: dict[str, tuple[Split, ...]] = {
    "fit": ("train", "validation"),
    "validate": ("validation",),
    "test": ("test",),
    "predict": ("predict",),
}
"""What each of a trainer's stages reads."""


class VQADataModule(Configured, LightningDataModule):
    """A data set's questions in batches, for a trainer.

    Batches hold all questions of `images_per_batch` images, so each image is encoded once. If a
    question is about several images, its list counts as one image.

    Args:
        dataset: data set with the questions, their vocabulary and their metric.
        images_per_batch: images per batch in each process.
        questions_per_image: largest number of questions about one image in a training batch; None
            for all, 1 for the usual independent sampling.
        workers: number of loader processes; 0 loads in the training process.
        images: options for where images are read from and how they are kept.
        augment: random changes of the training images and questions (`vlm.data.augmentation`).
        seed: seed of the training order, of the draws of `augment` and of the shuffling by
            `control`.
        control: what to remove from every split, images or questions, to see how well a model does
            without it (`vlm.data.ablations`). Vocabularies stay those of the full data.

    Attributes:
        model: model whose processor makes the batches; `setup` takes it from the trainer.

    Example:
        >>> data = vlm.VQADataModule(vlm.datasets.EasyVQA(), images_per_batch=16)
        >>> len(data.words), data.answers[:3]
        (26, ['yes', 'no', 'rectangle'])
    """

    model: VQAModel
    alive: Callable[[], None] = staticmethod(lambda: None)
    """Called now and then in what takes long, and is no batch."""
    overfits: bool = False
    """Whether each epoch has the same batches, in the order of the table (`overfit_batches`)."""
    __str__ = Configured.__repr__  # Lightning's makes the loaders, to count

    def __init__(
        self,
        dataset: Dataset,
        images_per_batch: int = 16,
        questions_per_image: int | None = None,
        workers: int = 0,
        images: ImageOptions = ImageOptions(),  # noqa: B008  frozen, so it is shared safely
        augment: Augment = Augment(),  # noqa: B008  frozen
        seed: int = 0,
        control: Control | None = None,
    ) -> None:
        super().__init__()
        for name, value, kind in (
            ("dataset", dataset, Dataset),
            ("images", images, ImageOptions),
            ("augment", augment, Augment),
        ):
            if not isinstance(value, kind):
                raise TypeError(
                    f"{name}: got {value!r:.80}; expected a {kind.__module__}.{kind.__name__}."
                )
        check_positive(images_per_batch=images_per_batch)
        if questions_per_image is not None:
            check_positive(questions_per_image=questions_per_image)
        if not isinstance(workers, int) or workers < 0:
            raise ValueError(f"workers: got {workers}; expected 0 or more loader processes.")
        if augment.of_images and images.features is not None:
            raise ValueError(
                f"{augment.of_images} and data.images.features: got both; expected one, for kept "
                "features are those of images as they are. Without the features, each epoch "
                "encodes the images anew."
            )
        self.dataset, self.augment = dataset, augment
        self.images_per_batch, self.questions_per_image = images_per_batch, questions_per_image
        check_seed(seed)
        self.workers, self.images, self.seed, self.control = workers, images, seed, control
        self._readable: dict[Split, pa.Table] = {}
        self._stores: dict[Split, Images] = {}
        self._teacher: TeacherInput | None = None
        self._train: ResumableLoader | None = None
        self._place: dict[str, Any] = {}

    @property
    def words(self) -> list[str]:
        """Words of the training questions, and those that a mirror adds."""
        return self.augment.completed(self.dataset.words)

    @property
    def words_with_choices(self) -> list[str]:
        """Words of the training questions and of their choices, and those that a mirror adds."""
        return self.augment.completed(self.dataset.words_with_choices)

    @property
    def answers(self) -> list[str]:
        """The answer vocabulary, and answers that a mirror adds."""
        return self.augment.completed(self.dataset.answers)

    @property
    def different_answers(self) -> list[str]:
        """All different answers of the training questions, also those that no vocabulary has room
        for, and answers that a mirror adds."""
        lists = stream(self.table("train"), "answers")
        return self.augment.completed(list(dict.fromkeys(a for (given,) in lists for a in given)))

    @property
    def max_images(self) -> int:
        """The largest number of images of a training question."""
        return most_images(self.table("train")["image"])

    def has(self, split: Split) -> bool:
        """Whether the set has this split; validation may be split off from train."""
        return self.dataset.has(split)

    def table(self, split: Split) -> pa.Table:
        """Questions of a split, without those that `skip_unreadable` left out.

        Raises:
            FileNotFoundError: a file of the data set is missing.
            DataError: the data set has no such split, or cannot be read.
        """
        return self._readable[split] if split in self._readable else self.dataset.table(split)

    @cached_property
    def open_images(self) -> OpenImages:
        """The files that images are read from."""
        if self.images.shards is None and self.images.regions is None:
            self.dataset.check_images()
        return OpenImages(self.images, self.dataset.image_source)

    def skip_unreadable(self, split: Split, transform: ImageTransform | RegionTransform) -> None:
        """Leave questions out whose images cannot be read, as far as `images` allows it; once.

        Args:
            split: split whose images are read.
            transform: that of the image encoder that will read them.

        Raises:
            DataError: more images than that, or all training images of one of a mixture's sets.
        """
        at_most = self.images.skip_unreadable
        if at_most and split in SPLITS["fit"] and split not in self._readable:
            table = self.dataset.table(split)
            level = transform.white_level if isinstance(transform, ImageTransform) else None
            left = without_unreadable(table, self.open_images, split, at_most, level)
            if split == "train" and isinstance(self.dataset, Mixture):
                self.dataset.check_sets(left)
            self._readable[split] = left

    def encoded_images(
        self, split: Split, encoder: ImageEncoder, layers: Sequence[Any] = ()
    ) -> Images:
        """The features of a split's images (`images.features`), made where they are missing.

        Args:
            split: split whose images are encoded.
            encoder: frozen image encoder; of several in one, only those in which `layers` trains
                nothing are used.
            layers: plan of what is trained (`vlm.training.VQATask.layers`).

        Raises:
            DataError: no folder for them, an encoder of regions, or no space.
            ImageError: an image that cannot be read.
        """
        folder, encoder = check_cacheable(self.images.features, encoder)
        images = different_images(self.table(split)["image"]).to_pylist()

        def keep(part: PixelEncoder) -> FeatureStore:
            cache = FeatureCache(folder, part, self.alive)
            return cache.store(images, self.open_images, split, self.images.features_batch)

        transform = encoder.transform

        def see() -> Images:
            return self._stores.get(split) or self.open_images.store(transform)

        return kept_images(encoder, layers, keep, see)

    def setup(self, stage: str) -> None:
        trainer: Any = self.trainer
        task = trainer.lightning_module
        self.model = task.model
        transform = self.model.processor.transform
        if stage == "fit" and self.images.features is not None:
            encoder = self.model.image_encoder
            check_frozen(self.images.features, encoder, task.layers, trainer.strategy)
        if stage == "fit" and self.augment.any:
            vocabulary = self.model.head.vocabulary
            answers = None if vocabulary is None else vocabulary.answers
            self.augment.check(self.dataset, answers, isinstance(transform, RegionTransform))
        if stage == "fit" and trainer.overfit_batches:
            # Lightning has set its limits by now, and would also replace our sampler with its own.
            self.overfits, trainer.overfit_batches = True, 0.0
        processes = LocalProcesses(trainer.num_devices, trainer.strategy.barrier)
        seen = self.images.features is None or sees_images(self.model.image_encoder, task.layers)
        for split in SPLITS[stage]:
            check_compatible(self.dataset, split, self.model)
            if self.control == "question_only":
                self._stores[split] = BlankImages(transform)
            elif split not in self._stores:
                self.skip_unreadable(split, transform)
                if split in self._readable:
                    check_alike(self.table(split), split, trainer.strategy)
                self._stores[split] = self.open_images.filled(
                    transform, self.table(split), split, processes, seen
                )
        if stage == "fit" and task.teacher is not None:  # without what was unreadable
            check_images(task.teacher.vqa.model, self.table("train"), "train")
            self._teacher = self._input_of(task.teacher.processor, processes)

    def _input_of(self, processor: Processor, processes: LocalProcesses) -> TeacherInput:
        """How a teacher reads the training questions.

        Raises:
            DataError: it reads regions where there are images, or the other way around.
        """
        transform = processor.transform
        controlled = self.control in SIDES
        if transform == self.model.processor.transform and self.images.features is None:
            return TeacherInput(processor, None, controlled)
        if self.control == "question_only":
            return TeacherInput(processor, BlankImages(transform))
        table = self.table("train")
        store = self.open_images.filled(transform, table, "train", processes)
        return TeacherInput(processor, store, controlled)

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
        if self.trainer is None or self.trainer.state.fn != "fit":
            return  # a test of a checkpoint trains nothing, and the next training begins anew
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

    def _loader(self, split: Split) -> DataLoader[Batch]:
        """This process's share of a split's batches, as its trainer takes them.

        Raises:
            DataError: fewer images to train on than processes, batches larger than the memory.
        """
        trainer: Any = self.trainer
        images = self._images(split)
        seen = controlled(self.table(split), self.control, self.seed)
        sampler = self._sampler(split, seen)
        if split == "train" and sampler.units < trainer.world_size:
            raise DataError(
                f"{type(self.dataset).__name__}: {counted(sampler.units, 'image')} to train on "
                f"and {trainer.world_size} processes; expected an image for each. Use fewer "
                f"processes."
            )
        if isinstance(images, ImageStore):
            there = int(sampler.groups.max(initial=-1)) + 1
            most = min(self.images_per_batch, there, ceil(sampler.units / trainer.world_size))
            most *= most_images(seen["image"])
            check_batch(most, prod(images.transform.shape))
        scored = split != "predict"  # or targets are not needed
        processor = self.model.processor if scored else self.model.asking_processor
        return make_loader(
            VQADataset(
                seen,
                processor,
                images,
                scored,
                self._augmenter(split),
                self._teacher if split == "train" else None,
            ),
            sampler,
            self.workers,
            resumable=split == "train",
            pin_memory=trainer.strategy.root_device.type == "cuda",
        )

    def _augmenter(self, split: Split) -> Augmenter | None:
        """The changes of a split; those of what `control` takes away are left out."""
        augment = self.augment if split == "train" else Augment()
        augment = augment.within(self.control != "question_only", self.control != "image_only")
        if self.control in SIDES:
            missing = dict.fromkeys(SIDES, 0.0) | {self.control: 1.0}
            augment = replace(augment, **missing)  # type: ignore[arg-type]  # both are shares
        return Augmenter(augment, self.seed) if augment.any else None

    def _images(self, split: Split) -> Images:
        """What the model sees of a split's images, after `control`."""
        if self.images.features is None:
            return self._stores[split]
        # Now, and not in `setup`: by now the model has the weights of its checkpoint.
        trainer: Any = self.trainer
        encoder, layers = self.model.image_encoder, trainer.lightning_module.layers
        if self.control == "question_only":
            _, encoder = check_cacheable(self.images.features, encoder)
            blank = BlankImages(encoder.transform)
            return kept_images(encoder, layers, BlankFeatures, lambda: blank)
        return self.encoded_images(split, encoder, layers)

    def streamed_shards(self) -> np.ndarray | None:
        """The number of each training image's shard, where the order of training depends on it:
        where they are fetched one after the other."""
        if self.images.shards is None or self.control == "question_only":
            return None
        source = self.open_images.shards
        if source is None or not source.streamed:
            return None
        return source.shards_of(first_images(self.table("train")["image"].unique()))

    def _sampler(self, split: Split, table: pa.Table) -> ImageGroupSampler:
        """Training is shuffled and may be limited; the other splits come in their order."""
        trainer: Any = self.trainer
        training = split == "train"
        shards = self.streamed_shards() if training else None
        groups, mixing = image_groups(table), None
        if training and isinstance(self.dataset, Mixture) and self.dataset.has_shares:
            if shards is not None:
                raise DataError(
                    "dataset.weights and dataset.temperature: got one of them with data.images."
                    "shards that are streamed; expected shards in a folder, or neither of them."
                )
            names = list(self.dataset.datasets)
            of = np.array([names.index(name) for name in table[SET].to_pylist()])
            # An image that two sets share is one image in each.
            pairs, groups = np.unique(groups * len(names) + of, return_inverse=True)
            mixing = Mixing(pairs % len(names), self.dataset.shares)
        return ImageGroupSampler(
            groups,
            self.images_per_batch,
            self.questions_per_image if training else None,
            seed=self.seed if training and not self.overfits else None,
            rank=trainer.global_rank,
            world=trainer.world_size,
            accumulate=trainer.accumulate_grad_batches if training else 1,
            limit=trainer.limit_train_batches if training else 1.0,
            shards=shards,
            mixing=mixing,
        )
