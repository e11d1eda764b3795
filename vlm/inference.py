"""Ask a trained model: a picture and a question in, answers out. No training code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils._pytree import tree_map_only

from vlm.checkpoint import load_model, read_checkpoint
from vlm.choices import mistake_in
from vlm.features import Features
from vlm.fusion.base import check_positive
from vlm.heads.generation import CUT, Generation
from vlm.heads.multi_task import answering
from vlm.model import VQAModel

Picture = str | Path | bytes | Image.Image | np.ndarray | Tensor
"""A path, a file's content, a PIL image, or an array as `vlm.image.load_image` takes it."""


@dataclass(frozen=True)
class Seen:
    """A picture that a model has seen: a question about it no longer needs the image encoder.

    Attributes:
        images: (1, ...) the model's input, as its transform makes it.
        features: what the image encoder made of it, one row.
    """

    images: Any
    features: Features


@dataclass(frozen=True)
class Answer:
    """The answer to one question.

    Attributes:
        text: the most likely answer.
        probability: in [0, 1], as the head gives it.
        top: the most likely answers with their probabilities, best first.
        warnings: why the answer may not be worth much, one sentence each.
    """

    text: str
    probability: float
    top: list[tuple[str, float]]
    warnings: tuple[str, ...] = ()


def load(path: str | Path, device: str | torch.device = "cpu", trust: bool = False) -> VQA:
    """Load a trained model from a checkpoint or a run folder; needs no network.

    Args:
        path: a `.ckpt` file that `vlm fit` wrote, or a run's folder (its best checkpoint).
        device: where to run.
        trust: also import parts from outside vlm, which runs their code.

    Raises:
        CheckpointError: missing, damaged or of another kind, with the reason.
    """
    checkpoint = read_checkpoint(path)
    return VQA(load_model(checkpoint, trust).to(device), checkpoint.about)


class VQA:
    """A trained model that answers questions about pictures.

    Args:
        model: in evaluation mode.
        about: which run made it.
    """

    def __init__(self, model: VQAModel, about: dict[str, Any] | None = None) -> None:
        self.model, self.about = model.eval(), about or {}

    @torch.no_grad()
    def see(self, image: Picture) -> Seen:
        """Look at a picture once, for any number of questions.

        Raises:
            ImageError: a picture that cannot be read.
        """
        transform: Any = self.model.processor.transform
        images = self._moved(transform.stack([transform.open(image)]))
        return Seen(images, self.model.image_encoder(images))

    # To the type checker a string is a sequence of strings too; the first signature is meant.
    @overload
    def answer(  # type: ignore[overload-overlap]
        self,
        image: Picture | Seen,
        question: str,
        top_k: int = 5,
        choices: Sequence[str] | None = None,
    ) -> Answer: ...
    @overload
    def answer(
        self,
        image: Picture | Seen | Sequence[Picture],
        question: Sequence[str],
        top_k: int = 5,
        choices: Sequence[Sequence[str]] | None = None,
    ) -> list[Answer]: ...

    def answer(
        self,
        image: Picture | Seen | Sequence[Picture],
        question: str | Sequence[str],
        top_k: int = 5,
        choices: Sequence[str] | Sequence[Sequence[str]] | None = None,
    ) -> Answer | list[Answer]:
        """Answer one question, or several in one batch; batching changes no answer.

        Args:
            image: one picture, one that `see` gave, or as many as there are questions. A model of
                region features takes the paths of their .npz files.
            question: one question, or several; with one picture all are about it.
            top_k: how many answers to rank.
            choices: what to choose from, for a model of multiple choice: two texts or more; of
                several questions, such a list for each.

        Raises:
            ValueError: an empty question, a `top_k` that is not positive, as many pictures as do
                not fit the questions; choices that are fewer than two, empty or repeat; none for a
                model that picks from choices, or some for another.
            ImageError: a picture that cannot be read.
        """
        check_positive(top_k=top_k)
        single = isinstance(question, str)
        if not isinstance(question, Sequence):
            raise ValueError(f"question: got {question!r}; wanted a text or a list of texts.")
        questions = [question] if isinstance(question, str) else list(question)
        several = isinstance(image, Sequence) and not isinstance(image, (str, bytes))
        pictures = list(image) if several else [image]  # type: ignore[arg-type]
        if len(pictures) not in (1, len(questions)) or (single and several):
            raise ValueError(
                f"image: got {len(pictures)} pictures for {len(questions)} questions; wanted one, "
                f"or one for each question."
            )
        if several and any(isinstance(picture, Seen) for picture in pictures):
            raise ValueError("image: got a seen picture in a list; wanted it by itself.")
        for number, text in enumerate(questions, start=1):
            if not isinstance(text, str) or not text.strip():
                raise ValueError(
                    f"question {number}: got {text!r}; wanted text that asks about the picture."
                )
        given = None if choices is None else _checked_choices(choices, single, len(questions))
        answers = self._answer(pictures, questions, top_k, given) if questions else []
        return answers[0] if single else answers

    @torch.inference_mode()
    def _answer(
        self,
        pictures: list[Any],
        questions: list[str],
        top_k: int,
        choices: list[list[str]] | None,
    ) -> list[Answer]:
        # Of several heads one answers: choices that it takes none of would change nothing.
        takes_choices = answering(self.model.head).takes_choices
        processor = self.model.processor._replace(takes_choices=takes_choices)
        transform: Any = processor.transform
        seen = pictures[0] if isinstance(pictures[0], Seen) else None
        if seen is None:
            images = transform.stack([transform.open(picture) for picture in pictures])
        else:
            images = seen.images
        index = [0] * len(questions) if len(pictures) == 1 else range(len(questions))
        batch = self._moved(processor.batch(images, list(index), questions, choices=choices))
        output = self.model(batch, None if seen is None else seen.features)
        ranked = self.model.head.decode(output, top_k)
        candidates = choices or [[] for _ in questions]
        return [
            Answer(*best[0], best, self._warnings(question, texts) + self._cut(best[0][0]))
            for best, question, texts in zip(ranked, questions, candidates, strict=True)
        ]

    def _cut(self, text: str) -> tuple[str, ...]:
        head = answering(self.model.head)
        if isinstance(head, Generation) and not head.takes_choices and text.endswith(CUT):
            return (f"The answer never ended: it was cut at {head.decoder.max_length} tokens.",)
        return ()

    def _moved(self, value: Any) -> Any:
        device = next(self.model.parameters()).device
        return tree_map_only(Tensor, lambda tensor: tensor.to(device), value)

    def _warnings(self, question: str, choices: list[str]) -> tuple[str, ...]:
        tokenizer = self.model.text_encoder.tokenizer
        unknown = tokenizer.unknown(question)
        warnings = []
        if unknown:
            all_of_them = len(unknown) >= len(tokenizer.tokens(question))
            which = "Every word" if all_of_them else ", ".join(repr(w) for w in unknown)
            verb = "is" if all_of_them or len(unknown) == 1 else "are"
            warnings.append(f"{which} {verb} unknown to the model: {question!r}.")
        if not tokenizer.ids(question):
            warnings.append(f"The question has no words: {question!r}.")
        elif tokenizer.length(question) > tokenizer.max_length:
            warnings.append(f"Only the first {tokenizer.max_length} words were read.")
        for text in choices:
            if unknown := tokenizer.unknown(text):
                words = ", ".join(map(repr, unknown))
                warnings.append(f"In the choice {text!r} the model does not know {words}.")
            elif not tokenizer.ids(text):
                warnings.append(f"The choice has no words: {text!r}.")
        return tuple(warnings)


def _checked_choices(choices: Any, single: bool, questions: int) -> list[list[str]]:
    """A list of choices for each question."""
    lists = [choices] if single else choices
    wanted = "a list of texts" if single else "such a list for each question"
    if (
        isinstance(lists, str)
        or not isinstance(lists, Sequence)
        or not all(isinstance(given, Sequence) and not isinstance(given, str) for given in lists)
    ):
        raise ValueError(f"choices: got {choices!r}; wanted {wanted}.")
    if len(lists) != questions:
        raise ValueError(
            f"choices: got {len(lists)} lists for {questions} questions; wanted one for each."
        )
    for number, given in enumerate(lists, start=1):
        if mistake := mistake_in(given):
            raise ValueError(f"choices of question {number}: {mistake}")
    return [list(given) for given in lists]
