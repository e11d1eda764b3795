"""Ask a trained model: an image and a question in, answers out. No training code."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlm.checkpoint.checkpoint import load_model, read_checkpoint
from vlm.checkpoint.sharing import is_shared, read_shared, write_shared
from vlm.core.compat import tree_flatten, tree_map_only
from vlm.core.rust_panic import AnswerError, broken_off
from vlm.core.validation import check_positive, counted
from vlm.fusion.base import Kept
from vlm.heads.base import Ranked
from vlm.heads.calibration import UNKNOWN, Calibration, decode
from vlm.heads.multi_task import answering
from vlm.image.load import ImageError
from vlm.model import VQAModel
from vlm.text.asking import Answer, checked_choices, checked_question, question_warnings

ImageLike = str | Path | bytes | Image.Image | np.ndarray | Tensor
"""A path, a file's content, a PIL image, or an array as `vlm.image.load_image` takes it."""


@dataclass(frozen=True)
class Seen:
    """An image that was encoded and prepared: questions about it need neither again.

    Attributes:
        images: (1, ...) the model's input, as its transform makes it.
        kept: what the image encoder and the fusion made of it.
    """

    images: Any
    kept: Kept


def load(path: str | Path, device: str | torch.device = "cpu", trust: bool = False) -> VQA:
    """Load a trained model; needs no network. Runs no code from the file, whoever made it.

    Args:
        path: a `.ckpt` file that `vlm fit` wrote, a run's folder (its best checkpoint), or a folder
            that `VQA.save` or `vlm share` wrote.
        device: where to run.
        trust: also import parts from outside vlm, which runs their code.

    Raises:
        CheckpointError: missing, damaged or of another kind, with the reason.
    """
    checkpoint = read_shared(path, trust) if is_shared(path) else read_checkpoint(path)
    return VQA(load_model(checkpoint, trust).to(device), checkpoint.about)


class VQA:
    """A trained model that answers questions about images.

    Args:
        model: model in evaluation mode.
        about: which run made it.

    Attributes:
        calibration: what its probabilities are worth; None for a model that was not calibrated.

    Example:
        >>> vqa = vlm.load("my_model")
        >>> vqa.answer("photo.png", "what color is it?").text in ("red", "blue")
        True
        >>> answers = vqa.answer(["photo.png"] * 2, ["what color is it?", "is it what?"])
        >>> len(answers)
        2
    """

    def __init__(self, model: VQAModel, about: dict[str, Any] | None = None) -> None:
        self.model, self.about = model.eval(), about or {}
        self.calibration = Calibration.of(self.about)

    def __repr__(self) -> str:
        return f"VQA({self.model}, on {self._device})"

    def save(self, folder: str | Path) -> Path:
        """Write the model for others, who load it with `vlm.load(folder)`: see `write_shared`.

        Args:
            folder: new or empty.

        Returns:
            The folder.
        """
        return write_shared(self.model, self.about, folder)

    @torch.no_grad()
    def see(self, image: ImageLike) -> Seen:
        """Encode an image once, for any number of questions.

        Raises:
            ImageError: an image that cannot be read.
        """
        transform: Any = self.model.processor.transform
        images, device = transform.stack([transform.open(image)]), self._device
        images = tree_map_only(Tensor, lambda tensor: tensor.to(device), images)
        return Seen(images, self.model.fusion.keep(self.model.image_encoder(images)))

    # To the type checker a string is a sequence of strings too; the first signature is meant.
    @overload
    def answer(  # type: ignore[overload-overlap]
        self,
        image: ImageLike | Seen,
        question: str,
        top_k: int = 5,
        choices: Sequence[str] | None = None,
        max_risk: float | None = None,
    ) -> Answer: ...
    @overload
    def answer(
        self,
        image: ImageLike | Seen | Sequence[ImageLike],
        question: Sequence[str],
        top_k: int = 5,
        choices: Sequence[Sequence[str]] | None = None,
        max_risk: float | None = None,
    ) -> list[Answer]: ...

    def answer(
        self,
        image: ImageLike | Seen | Sequence[ImageLike],
        question: str | Sequence[str],
        top_k: int = 5,
        choices: Sequence[str] | Sequence[Sequence[str]] | None = None,
        max_risk: float | None = None,
    ) -> Answer | list[Answer]:
        """Answer one question, or several in one batch; batching changes no answer.

        Args:
            image: one image, one from `see`, or one for each question. A model of region features
                takes the paths of their .npz files.
            question: one question, or several; with one image all are about it.
            top_k: how many answers to rank.
            choices: candidates, for a multiple-choice model: two texts or more; for several
                questions, a list for each.
            max_risk: share of wrong answers that is accepted among those given, in (0, 1), such as
                0.05; less certain answers become "I don't know". None answers everything.

        Raises:
            ValueError: an empty question, a `top_k` that is not positive, several images that are
                not one for each question; choices that are fewer than two, empty or repeat; none
                for a model that picks from choices, or some for another; a `max_risk` that no
                threshold is certified for, or a model without thresholds.
            ImageError: an image that cannot be read.
            TypeError: something that is not an image; both name it in a list, as `image[3]`.
            AnswerError: the model's answer is not finite, or its tokenizer fails.
        """
        check_positive(top_k=top_k)
        least = 0.0 if max_risk is None else self._threshold(max_risk)
        single = isinstance(question, str)
        if not isinstance(question, Sequence) or isinstance(question, bytes):
            raise ValueError(f"question: got {question!r:.80}; expected a text or a list of texts.")
        questions = [question] if isinstance(question, str) else list(question)
        several = isinstance(image, Sequence) and not isinstance(image, (str, bytes))
        given = list(image) if several else [image]  # type: ignore[arg-type]
        if len(given) not in (1, len(questions)) or (single and several):
            raise ValueError(
                f"image: got {counted(len(given), 'image')} for "
                f"{counted(len(questions), 'question')}; expected one, or one for each question."
            )
        if several and any(isinstance(item, Seen) for item in given):
            raise ValueError("image: got an image from `see` in a list; expected it by itself.")
        questions = [
            checked_question(text, number) for number, text in enumerate(questions, start=1)
        ]
        texts = None if choices is None else checked_choices(choices, single, len(questions))
        answers = self._answer(given, questions, top_k, texts) if questions else []
        answers = [
            replace(a, text=UNKNOWN, abstains=True) if a.probability < least else a for a in answers
        ]
        return answers[0] if single else answers

    def _threshold(self, max_risk: float) -> float:
        if self.calibration is None:
            raise ValueError(
                f"max_risk: got {max_risk!r}, but this model has no thresholds; calibrate it with "
                f"`vlm calibrate RUN`, or leave max_risk out."
            )
        return self.calibration.threshold(max_risk).probability or 0.0

    @broken_off
    @torch.inference_mode()
    def _answer(
        self,
        given: list[Any],
        questions: list[str],
        top_k: int,
        choices: list[list[str]] | None,
    ) -> list[Answer]:
        processor = self.model.asking_processor
        transform: Any = processor.transform
        seen = given[0] if isinstance(given[0], Seen) else None
        images = transform.stack(_opened(transform, given)) if seen is None else seen.images
        index = [0] * len(questions) if len(given) == 1 else range(len(questions))
        batch = processor.batch(images, list(index), questions, choices=choices).to(self._device)
        output = self.model(batch, None if seen is None else seen.kept)
        _check_finite(value.isnan().any() for value in tree_flatten(output)[0] if _is_float(value))
        ranked = decode(self.model.head, output, top_k, self.calibration)
        _check_finite(not math.isfinite(share) for best in ranked for _, share in best)
        candidates = choices or [[] for _ in questions]
        warnings = [
            (
                *question_warnings(processor.tokenizer, question),
                *self._choice_warnings(texts),
                *self._cut(best),
            )
            for best, question, texts in zip(ranked, questions, candidates, strict=True)
        ]
        guesses = map(processor.tokenizer.misses, questions)
        known = self.calibration is not None
        return [
            Answer(*r[0], r, w, g, known) for r, w, g in zip(ranked, warnings, guesses, strict=True)
        ]

    def _cut(self, ranked: Ranked) -> list[str]:
        tokens = answering(self.model.head).truncated_at(ranked[0][0])
        return [f"The answer never ended: it was cut at {tokens} tokens."] if tokens else []

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _choice_warnings(self, choices: list[str]) -> list[str]:
        head, encoder = answering(self.model.head), self.model.text_encoder
        tokenizer, warnings = encoder.tokenizer, []
        read: defaultdict[tuple[int, ...], list[str]] = defaultdict(list)
        for text in choices:
            if (read_by_head := head.choice_ids(text)) is not None:
                read[tuple(read_by_head)].append(text)
                continue
            ids = tokenizer.ids(text)[: tokenizer.max_length]
            read[tuple(ids if encoder.in_order else sorted(ids))].append(text)
            if unknown := tokenizer.unknown(text):
                words = ", ".join(map(repr, unknown))
                warnings.append(f"Unknown to the model in the choice {text!r}: {words}.")
            elif not tokenizer.ids(text):
                warnings.append(f"The choice has no words: {text!r}.")
            if tokenizer.length(text) > tokenizer.max_length:
                warnings.append(
                    f"Only the first {tokenizer.max_length} words of the choice {text!r:.80} were "
                    f"read."
                )
        for same in read.values():
            if len(same) > 1:
                texts = ", ".join(f"{text!r:.80}" for text in same)
                warnings.append(f"The model cannot tell these choices apart: {texts}.")
        return warnings


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _check_finite(broken: Iterable[Any]) -> None:
    if any(broken):
        raise AnswerError(
            "the model's answer is not finite: its weights are too large for its own layers. "
            "Use another checkpoint or model."
        )


def _opened(transform: Any, images: Sequence[Any]) -> list[Any]:
    opened = []
    for index, image in enumerate(images):
        try:
            opened.append(transform.open(image))
        except (ImageError, TypeError) as error:
            if len(images) == 1:
                raise
            mistake = f"image[{index}]: {str(error).removeprefix('image: ')}"
            if isinstance(error, ImageError):
                raise ImageError(mistake, error.kind) from error
            raise TypeError(mistake) from error
    return opened
