"""Asking, whatever answers: a model, or what was exported of one.

Nothing here needs torch: an exported model asks and answers by it too.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, overload

from PIL.Image import Image

from vlm.core.calibration import Calibration
from vlm.core.clean_text import clean_text
from vlm.core.validation import check_positive, counted, mistake_in, shorten
from vlm.image.as_text import in_words, is_picture, picture_of
from vlm.image.load import ImageError, Source

ImageLike = Source
"""An image in any form that `vlm.image.load_image` takes."""


UNKNOWN = "I don't know"
"""The answer where the probability is below the threshold."""
ABOVE_RISK = "the risk is above the accepted one"
"""Why there is no answer then."""
MISSING = "-"
"""What stands on the command line and in tables for no image, or for no question."""
NO_ANSWER = 3
"""Exit code of commands that give no answer: the model can only guess, or the risk is too high; 1
is a user's mistake, 2 a wrong argument."""


@dataclass(frozen=True)
class Answer:
    """The answer to one question.

    Attributes:
        text: the most likely answer, or "I don't know" if the model abstains; the data URL of a
            PNG if the model drew an image.
        probability: probability in [0, 1] of the most likely answer.
        top: the most likely answers with their probabilities, best first.
        warnings: reasons to doubt the answer, one sentence each.
        is_guess: whether the question is beyond the model (`Tokenizer.misses`). If so, show no
            answer: `text` and `probability` mean nothing.
        calibrated: whether the probabilities were calibrated (`vlm calibrate`), so that about 80 %
            of the answers with a probability of 80 % are right; otherwise they are the head's own.
        abstains: whether the probability is below the threshold for the requested `max_risk`; `top`
            has the answers in any case.

    Example:
        >>> answer = vlm.load("my_model").answer("photo.png", "what color is it?", top_k=2)
        >>> answer.top[0] == (answer.text, answer.probability), answer.warnings, answer.is_guess
        (True, (), False)
    """

    text: str
    probability: float
    top: list[tuple[str, float]]
    warnings: tuple[str, ...] = ()
    is_guess: bool = False
    calibrated: bool = False
    abstains: bool = False

    @property
    def drawing(self) -> Image | None:
        """The image that the model drew, in RGB; None for an answer in words."""
        return picture_of(self.text) if is_picture(self.text) else None

    def within(self, least: float) -> Answer:
        """This answer, or "I don't know" instead if it is less probable than `least`."""
        if self.is_guess or self.probability >= least:
            return self
        return replace(self, text=UNKNOWN, abstains=True)


def percent(probability: float) -> str:
    """A probability for people to read.

    >>> percent(0.1234), percent(1.0), percent(0.00001)
    ('12.3 %', '> 99.9 %', '< 0.1 %')
    """
    if probability > 0.999:
        return "> 99.9 %"
    return f"{100 * probability:.1f} %" if probability >= 0.001 else "< 0.1 %"


def print_answer(answer: Answer, calibration: Calibration | None) -> None:
    """Print answers with their probabilities; to standard error warnings, and what the
    probabilities are worth."""
    if answer.is_guess:
        print("No answer: this question is beyond the model. Its guesses:")
    elif answer.abstains:
        print(f"{answer.text}: {ABOVE_RISK}. Less certain answers:")
    for text, probability in answer.top:
        said = in_words(text)
        print(f"  {said}" if answer.is_guess else f"{percent(probability):>8}  {said}")
    for warning in answer.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    unknown = "not calibrated; `vlm calibrate RUN` calibrates a run"
    print(calibration.about if calibration else unknown, file=sys.stderr)


class Asking(ABC):
    """Base of a model and of an export, which both answer questions about images.

    Attributes:
        seen_type: type of the result of `see`.
        transform: transform of an image to the model's input.
        calibration: how the model's probabilities were calibrated; None for a model that was not.
        ranks_choices: whether the model answers from a question's choices if there are any, and
            otherwise in free text.
        answers_one_side: whether the model answers without an image, or without a question.
        draws: whether an answer may be an image.
        max_images: largest number of images of a question; None for any number.
    """

    seen_type: ClassVar[type]
    answers_one_side: ClassVar[bool] = False
    transform: Any
    calibration: Calibration | None = None
    ranks_choices: ClassVar[bool] = False
    max_images: int | None = 1
    draws: bool = False

    @property
    @abstractmethod
    def kind(self) -> str:
        """The kind of answers: from a "vocabulary", from given "choices", or in free "text"."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """SHA-256 of all that its answers depend on."""

    @overload
    def see(self, image: ImageLike) -> Any: ...
    @overload
    def see(self, image: Sequence[ImageLike | Sequence[ImageLike]]) -> list[Any]: ...

    def see(self, image: ImageLike | Sequence[ImageLike | Sequence[ImageLike]]) -> Any:
        """Encode an image once, for any number of questions, or several images in one batch. An
        inner list has the images of one question.

        Raises:
            ImageError: an image that cannot be read.
            TypeError: an argument that is not an image; both errors name its place in a list, such
                as `image[3]`.
            ValueError: more images for a question than the model takes, or an empty list.
        """
        several = is_list(image)
        given: list[Any] = list(image) if several else [image]  # type: ignore[arg-type]
        for index, one in enumerate(given):
            given[index] = self._checked_images(one, index)
        seen = self.encode(opened(self.transform, given))
        return seen if several else seen[0]

    @abstractmethod
    def encode(self, images: Sequence[Any]) -> list[Any]:
        """`see` for images that `transform.open` has brought to the model's input; a list among
        them is the images of one question."""

    @abstractmethod
    def _answer(
        self,
        given: list[Any],
        questions: list[str | None],
        top_k: int,
        choices: list[list[str]] | None,
    ) -> list[Answer]:
        """The answers to checked questions; None stands for a side that is missing, a list for the
        images of one question."""

    # To the type checker a string is a sequence of strings too; the first signature is meant.
    @overload
    def answer(  # type: ignore[overload-overlap]
        self,
        image: ImageLike | Any | Sequence[ImageLike] | None,
        question: str | None,
        top_k: int = 5,
        choices: Sequence[str] | None = None,
        max_risk: float | None = None,
    ) -> Answer: ...
    @overload
    def answer(
        self,
        image: ImageLike | Any | Sequence[ImageLike | Sequence[ImageLike] | None] | None,
        question: Sequence[str | None],
        top_k: int = 5,
        choices: Sequence[Sequence[str]] | None = None,
        max_risk: float | None = None,
    ) -> list[Answer]: ...

    def answer(
        self,
        image: ImageLike | Any | Sequence[ImageLike | Sequence[ImageLike] | None] | None,
        question: str | Sequence[str | None] | None,
        top_k: int = 5,
        choices: Sequence[str] | Sequence[Sequence[str]] | None = None,
        max_risk: float | None = None,
    ) -> Answer | list[Answer]:
        """Answer one question, or several in one batch; batching changes no answer.

        Args:
            image: for one question, its image, or a list of its images in order; for several
                questions, one image for all or a list with one for each, where an inner list has
                the images of one question. Images from `see` work too. A model of region features
                takes the paths of their .npz files. None for no image: the answer is then from the
                question alone, and its warnings say so.
            question: one question, or several; with one image, all are about it. None for no
                question: the answer is then from the image alone.
            top_k: number of answers to rank.
            choices: two or more candidates, for a multiple-choice model; for several questions, a
                list for each, which may be empty if the model `ranks_choices`.
            max_risk: accepted share of wrong answers among the given ones, in (0, 1), such as 0.05;
                less certain answers become "I don't know". None answers everything.

        Raises:
            ValueError: an empty question, a `top_k` that is not positive, several images that are
                not one for each question, an empty list, or more images of a question than the
                model takes; fewer than two choices, empty or repeated ones; no choices for a model
                that picks from them, or choices for another model; a `max_risk` without a certified
                threshold, or a model without thresholds.
            ImageError: an image that cannot be read.
            TypeError: an argument that is not an image; both errors name its place in a list, such
                as `image[3]`.
            AnswerError: an answer of the model that is not finite, or a tokenizer that fails.
        """
        check_positive(top_k=top_k)
        least = self.least(max_risk)
        single = question is None or isinstance(question, str)
        if (not single and not isinstance(question, Sequence)) or isinstance(question, bytes):
            raise ValueError(f"question: got {question!r:.80}; expected a text or a list of texts.")
        questions = [question] if single else list(question)  # type: ignore[arg-type]
        several = is_list(image) and not single
        given = list(image) if several else [image]  # type: ignore[arg-type]
        for index, one in enumerate(given):
            given[index] = self._checked_images(one, index if several else None)
        if len(given) not in (1, len(questions)):
            raise ValueError(
                f"image: got {counted(len(given), 'image')} for "
                f"{counted(len(questions), 'question')}; expected one, or one for each question."
            )
        if several and len({isinstance(item, self.seen_type) for item in given}) > 1:
            raise ValueError("image: got images from `see` among others; expected one kind.")
        questions = [
            None if text is None else checked_question(text, number)
            for number, text in enumerate(questions, start=1)
        ]
        self._check_sides(given, questions)
        count = len(questions)
        texts = None
        if choices is not None:
            texts = checked_choices(choices, single, count, self.ranks_choices)
        answers = self._answer(given, questions, top_k, texts) if questions else []
        answers = [answer.within(least) for answer in answers]
        return answers[0] if single else answers

    def _checked_images(self, image: Any, index: int | None) -> Any:
        """An image, or the list of several of one question, which the model takes; `index` is the
        place in a list."""
        if not is_list(image):
            return image
        images, name = list(image), "image" if index is None else f"image[{index}]"
        if not images:
            raise ValueError(f"{name}: got an empty list; expected an image, or None for none.")
        for place, one in enumerate(images):
            if one is None or is_list(one) or isinstance(one, self.seen_type):
                got = "an image from `see`" if isinstance(one, self.seen_type) else shorten(one)
                raise ValueError(
                    f"{name}[{place}]: got {got} among the images of a question; expected an image "
                    f"(`see([[a, b]])` encodes two as those of one question)."
                )
        if len(images) == 1:
            return images[0]
        if self.max_images is not None and len(images) > self.max_images:
            most = "one" if self.max_images == 1 else f"at most {self.max_images}"
            raise ValueError(
                f"{name}: got {counted(len(images), 'image')} for a question; expected {most}, as "
                f"the model was trained with. For several images, train on questions with lists of "
                f"images (docs/own_data.md)."
            )
        return images

    def _check_sides(self, given: list[Any], questions: list[str | None]) -> None:
        """Raise ValueError for a question of which nothing is there, or that a model cannot take
        with one side alone."""
        images = given * len(questions) if len(given) == 1 else given
        for number, (image, text) in enumerate(zip(images, questions, strict=True), start=1):
            if image is None and text is None:
                raise ValueError(
                    f"image and question {number}: got neither; expected at least one of them."
                )
            if (image is None or text is None) and not self.answers_one_side:
                side = "image" if image is None else "question"
                raise ValueError(
                    f"{side} {number}: got None, and this model needs both sides; give the "
                    f"{side}. A run or a shared model answers from one side, too."
                )

    def least(self, max_risk: float | None) -> float:
        """The lowest probability at which an answer is given.

        Raises:
            ValueError: a `max_risk` that no threshold is certified for, or a model without any.
        """
        if max_risk is None:
            return 0.0
        if self.calibration is None:
            raise ValueError(
                f"max_risk: got {max_risk!r}, but this model has no threshold for it (it is not "
                f"calibrated). Run `vlm calibrate RUN`, or leave max_risk out."
            )
        return self.calibration.least(max_risk)


def is_list(image: Any) -> bool:
    """Whether this is a list of images, and no image."""
    return isinstance(image, Sequence) and not isinstance(
        image, (str, bytes, bytearray, memoryview)
    )


def opened(
    transform: Any, images: Sequence[Any], may_miss: bool = False, name: str = "image"
) -> list[Any]:
    """What `transform.open` makes of each image, and if they `may_miss`, a blank for None; an error
    names which of several. Lists stay lists."""
    made: list[Any] = []
    for index, image in enumerate(images):
        if is_list(image):
            inside = name if len(images) == 1 else f"{name}[{index}]"
            made.append(opened(transform, image, name=inside))
            continue
        if image is None and may_miss:  # what stands there is masked
            blank = transform.blank(1)
            made.append(blank if isinstance(blank, tuple) else blank[0])
            continue
        try:
            made.append(transform.open(image))
        except (ImageError, TypeError) as error:
            if len(images) == 1:
                raise
            mistake = f"{name}[{index}]: {str(error).removeprefix('image: ')}"
            if isinstance(error, ImageError):
                raise ImageError(mistake, error.kind) from error
            raise TypeError(mistake) from error
    return made


def checked_question(text: object, number: int) -> str:
    """A question in the one form of `clean_text`; a ValueError for one that asks nothing."""
    try:
        cleaned = clean_text(text)
    except ValueError as error:
        raise ValueError(f"question {number}: {error}.") from error
    if not cleaned.strip():
        raise ValueError(
            f"question {number}: got {text!r:.80}; expected text that asks about the image."
        )
    return cleaned


def checked_choices(
    choices: Any, single: bool, questions: int, optional: bool = False
) -> list[list[str]]:
    """A list of choices for each question; a ValueError for any but two or more different texts, or
    none where they are `optional`."""
    lists = [choices] if single else choices
    wanted = "a list of texts" if single else "such a list for each question"
    if (
        isinstance(lists, str)
        or not isinstance(lists, Sequence)
        or not all(isinstance(given, Sequence) and not isinstance(given, str) for given in lists)
    ):
        raise ValueError(f"choices: got {choices!r}; expected {wanted}.")
    if len(lists) != questions:
        raise ValueError(
            f"choices: got {counted(len(lists), 'list')} for {counted(questions, 'question')}; "
            f"expected one for each."
        )
    checked = []
    for number, given in enumerate(lists, start=1):
        try:
            texts = [clean_text(text) if isinstance(text, str) else text for text in given]
        except ValueError as error:
            raise ValueError(f"choices of question {number}: {error}.") from error
        if (texts or not optional) and (mistake := mistake_in(texts)):
            raise ValueError(f"choices of question {number}: {mistake}")
        checked.append(texts)
    return checked
