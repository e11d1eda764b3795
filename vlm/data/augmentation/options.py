"""Which augmentations a training uses, and one batch of them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from vlm.core.features import Seen, Several
from vlm.core.part import Configured
from vlm.data.augmentation.images import ImageAugmentation
from vlm.data.augmentation.meaning import MEANINGS, Meaning, speaks_of
from vlm.data.augmentation.mirror import Mirror
from vlm.data.augmentation.questions import QuestionAugmentation
from vlm.datasets.base import Dataset
from vlm.datasets.errors import DataError
from vlm.datasets.several import most_images
from vlm.datasets.table import stream
from vlm.text.words import split_words

T = TypeVar("T", bound=Configured)


@dataclass(frozen=True)
class Augment:
    """Random changes of the training data; evaluation sees the data as they are.

    A random change depends only on the data's seed, the epoch, and the image or question: not on
    batches, loader workers, processes or interruptions. All questions about an image see the same
    change.

    Args:
        images: changes of images at the model's input size, one after the other.
        questions: changes of questions, one after the other.
        mirror: settings for mirrored images, with left and right exchanged in texts; None for no
            mirror.
        no_image: share of the questions, in [0, 1], that are asked without an image.
        no_question: share of the questions, in [0, 1], whose text is left out; together with
            `no_image` at most 1, because a question never lacks both.
        allow: properties that `images` may change even if questions or answers mention them:
            "color", "direction".

    Raises:
        TypeError: an argument that is not an augmentation.
        ValueError: a share outside [0, 1], or an unknown property in `allow`.

    Example:
        >>> from vlm.data.augmentation import Augment, DroppedWords, Mirror, RandAugment
        >>> augment = Augment(images=[RandAugment(colors=False)], mirror=Mirror())
        >>> data = vlm.VQADataModule(vlm.datasets.EasyVQA(), augment=augment)
        >>> data.augment.any, vlm.VQADataModule(vlm.datasets.EasyVQA()).augment.any
        (True, False)
    """

    images: list[ImageAugmentation] | ImageAugmentation | None = None
    questions: list[QuestionAugmentation] | QuestionAugmentation | None = None
    mirror: Mirror | None = None
    no_image: float = 0.0
    no_question: float = 0.0
    allow: list[Meaning] | None = None

    def __post_init__(self) -> None:
        for name, base in (("images", ImageAugmentation), ("questions", QuestionAugmentation)):
            for given in _listed(getattr(self, name)):
                if not isinstance(given, base):
                    raise TypeError(
                        f"augment.{name}: got {given!r:.80}; expected a {base.__name__}, such as "
                        f"those of vlm.data.augmentation."
                    )
        if not isinstance(self.mirror, (Mirror, type(None))):
            raise TypeError(f"augment.mirror: got {self.mirror!r:.80}; expected a Mirror or None.")
        for name in ("no_image", "no_question"):
            share = getattr(self, name)
            if not isinstance(share, (int, float)) or not 0 <= share <= 1:
                raise ValueError(f"augment.{name}: got {share!r}; expected a share in [0, 1].")
        if self.no_image + self.no_question > 1:
            raise ValueError(
                f"augment.no_image and augment.no_question: got {self.no_image} and "
                f"{self.no_question}; expected at most 1 together, since no question lacks both."
            )
        for meaning in self.allow or ():
            if meaning not in MEANINGS:
                raise ValueError(
                    f"augment.allow: got {meaning!r}; expected some of {', '.join(MEANINGS)}."
                )

    @property
    def any(self) -> bool:
        """Whether anything is changed at all."""
        return self != Augment(allow=self.allow)

    @property
    def of_images(self) -> str | None:
        """The option that changes what stands in images, if one does."""
        if self.images:
            return "data.augment.images"
        return None if self.mirror is None else "data.augment.mirror"

    def check(self, dataset: Dataset, answers: Sequence[str] | None, reads_regions: bool) -> None:
        """Check that what is asked and answered stays true.

        Args:
            dataset: its training questions are meant.
            answers: the head's vocabulary; None where it has none, and may say any answer.
            reads_regions: whether the image encoder reads features of regions, not images.

        Raises:
            DataError: an augmentation of images that contradicts the texts, or for regions; a
                mirror of several images of a question.
        """
        if self.images and reads_regions:
            raise DataError(
                f"data.augment.images: got {_names(self.images)}, and the image encoder reads "
                "features of regions, which have no pixels; expected data.augment.mirror alone, "
                "which moves their boxes."
            )
        if not self.of_images:
            return
        if self.mirror is not None and most_images(dataset.table("train")["image"]) > 1:
            raise DataError(
                "data.augment.mirror: got a mirror, and questions about several images, of which "
                "one may be the left and one the right; expected no mirror. Leave it out."
            )
        words = dict.fromkeys(dataset.words_with_choices)
        said: Iterable[str] = answers or ()
        if answers is None:
            given = stream(dataset.table("train"), "answers")
            said = {text for (texts,) in given for text in texts}
        words |= dict.fromkeys(word for text in said for word in split_words(text))
        for each in _listed(self.images):
            for meaning in set(each.changes) - set(self.allow or ()):
                if found := speaks_of(meaning, words):
                    raise DataError(_contradicted(each, meaning, found))
        if self.mirror is not None:
            self.mirror.check(words, answers or ())

    def completed(self, texts: list[str]) -> list[str]:
        """Words or answers of the data with those that a mirror adds."""
        return texts if self.mirror is None else self.mirror.completed(texts)

    def within(self, images: bool, questions: bool) -> Augment:
        """The same without the changes of images, or of questions, where these are blank."""
        found = self if images else replace(self, images=None)
        return found if questions else replace(found, questions=None)


@dataclass(frozen=True)
class Augmenter:
    """Augmentations with the seed that they are drawn with; travels to loader workers.

    Args:
        augment: what is changed.
        seed: of all draws.
    """

    augment: Augment
    seed: int

    def images(self, images: Seen, numbers: Sequence[int], epoch: int) -> tuple[Seen, list[bool]]:
        """Change a batch's images.

        Args:
            images: (U, 3 or 4, H, W) uint8, or features of U images' regions; nothing changes
                features that are kept of images (`VQADataModule`).
            numbers: U, each image's own in the table.
            epoch: epoch of the training.

        Returns:
            The images, and which are mirrored.
        """
        if self._of_images and isinstance(images, Tensor) and len(images):
            # What torch draws is drawn as if the training drew nothing.
            with torch.random.fork_rng(devices=[]):
                images = torch.stack(
                    [
                        self._image(image, self._seed(epoch, "image", number))
                        for image, number in zip(images, numbers, strict=True)
                    ]
                )
        mirror = self.augment.mirror
        if mirror is None or isinstance(images, Several):
            return images, [False] * len(numbers)
        chosen = [self._rng(epoch, "mirror", n).random() < mirror.probability for n in numbers]
        return mirror.images(images, chosen), chosen

    def _image(self, image: Tensor, seed: int) -> Tensor:
        torch.default_generator.manual_seed(seed)
        if len(image) == 3:
            return self._changed(image)
        # The fourth channel says where the image is; the empty borders around it stay.
        inside = image[3] > 0
        rows, columns = (inside.any(side).nonzero()[:, 0].tolist() for side in (1, 0))
        part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        image = image.clone()
        image[:3, *part] = self._changed(image[:3, *part].contiguous())
        return image

    def _changed(self, image: Tensor) -> Tensor:
        for each in self._of_images:
            image = each(image)
        return image

    def question(self, question: str, id_: str, epoch: int, mirrored: bool) -> str:
        """Change the question with an id, about an image that is mirrored or not."""
        if mirrored and self.augment.mirror is not None:
            question = self.augment.mirror.text(question)
        if self._of_questions:
            rng = self._rng(epoch, "question", id_)
            for each in self._of_questions:
                question = each(question, rng)
        return question

    def texts(self, texts: Sequence[str] | None, mirrored: bool) -> Sequence[str] | None:
        """Answers or choices of a question about an image that is mirrored or not."""
        if texts is None or not mirrored or self.augment.mirror is None:
            return texts
        return [self.augment.mirror.text(text) for text in texts]

    def missing(self, ids: Sequence[str], epoch: int) -> tuple[Tensor | None, Tensor | None]:
        """Which of Q questions lack their image, and which their text; None for none."""
        first, second = self.augment.no_image, self.augment.no_question
        if not first + second:
            return None, None
        drawn = [self._rng(epoch, "missing", id_).random() for id_ in ids]
        no_image = torch.tensor([share < first for share in drawn], dtype=torch.bool)
        no_question = torch.tensor([first <= share < first + second for share in drawn])
        return no_image if first else None, no_question.bool() if second else None

    @cached_property
    def _of_images(self) -> list[ImageAugmentation]:
        return _listed(self.augment.images)

    @cached_property
    def _of_questions(self) -> list[QuestionAugmentation]:
        return _listed(self.augment.questions)

    def _rng(self, epoch: int, kind: str, key: object) -> random.Random:
        return random.Random(self._seed(epoch, kind, key))

    def _seed(self, epoch: int, kind: str, key: object) -> int:
        told = f"{self.seed} {epoch} {kind} {key}".encode()
        return int.from_bytes(hashlib.blake2b(told, digest_size=7).digest())


def _listed(given: list[T] | T | None) -> list[T]:
    if given is None:
        return []
    return list(given) if isinstance(given, (list, tuple)) else [given]


def _names(given: list[ImageAugmentation] | ImageAugmentation | None) -> str:
    return ", ".join(type(each).__name__ for each in _listed(given))


def _contradicted(each: ImageAugmentation, meaning: Meaning, found: Sequence[str]) -> str:
    argument = "colors" if meaning == "color" else "rotations"
    instead = f" Make it with {argument}=false," if argument in each.arguments else " Leave it out,"
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return (
        f"data.augment.images: got {type(each).__name__}, after which a {meaning} may be another, "
        f"and the questions or answers speak of {meaning}s ({', '.join(found[:3])}{more})."
        f"{instead} or allow it with data.augment.allow=[{meaning}]."
    )
