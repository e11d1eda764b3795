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
from vlm.fusion.base import check_positive
from vlm.model import VQAModel

Picture = str | Path | Image.Image | np.ndarray | Tensor
"""A path, a PIL image, or an array as `vlm.image.load_image` takes it."""


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

    # To the type checker a string is a sequence of strings too; the first signature is meant.
    @overload
    def answer(  # type: ignore[overload-overlap]
        self, image: Picture, question: str, top_k: int = 5
    ) -> Answer: ...
    @overload
    def answer(
        self, image: Picture | Sequence[Picture], question: Sequence[str], top_k: int = 5
    ) -> list[Answer]: ...

    def answer(
        self, image: Picture | Sequence[Picture], question: str | Sequence[str], top_k: int = 5
    ) -> Answer | list[Answer]:
        """Answer one question, or several in one batch; batching changes no answer.

        Args:
            image: one picture, or as many as there are questions. A model of region features takes
                the paths of their .npz files.
            question: one question, or several; with one picture all are about it.
            top_k: how many answers to rank.

        Raises:
            ValueError: an empty question, a `top_k` that is not positive, or as many pictures as
                do not fit the questions.
            ImageError: a picture that cannot be read.
        """
        check_positive(top_k=top_k)
        single = isinstance(question, str)
        if not isinstance(question, Sequence):
            raise ValueError(f"question: got {question!r}; wanted a text or a list of texts.")
        questions = [question] if isinstance(question, str) else list(question)
        several = isinstance(image, Sequence) and not isinstance(image, str)
        pictures = list(image) if several else [image]  # type: ignore[arg-type]
        if len(pictures) not in (1, len(questions)) or (single and several):
            raise ValueError(
                f"image: got {len(pictures)} pictures for {len(questions)} questions; wanted one, "
                f"or one for each question."
            )
        for number, text in enumerate(questions, start=1):
            if not isinstance(text, str) or not text.strip():
                raise ValueError(
                    f"question {number}: got {text!r}; wanted text that asks about the picture."
                )
        answers = self._answer(pictures, questions, top_k) if questions else []
        return answers[0] if single else answers

    @torch.inference_mode()
    def _answer(self, pictures: list[Any], questions: list[str], top_k: int) -> list[Answer]:
        processor = self.model.processor
        transform: Any = processor.transform
        images = transform.stack([transform.open(picture) for picture in pictures])
        index = [0] * len(questions) if len(pictures) == 1 else range(len(questions))
        batch = processor.batch(images, list(index), questions)
        device = next(self.model.parameters()).device
        batch = tree_map_only(Tensor, lambda tensor: tensor.to(device), batch)
        ranked = self.model.head.decode(self.model(batch), top_k)
        return [
            Answer(best[0][0], best[0][1], best, self._warnings(question))
            for best, question in zip(ranked, questions, strict=True)
        ]

    def _warnings(self, question: str) -> tuple[str, ...]:
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
        elif len(tokenizer.ids(question)) > tokenizer.max_length:
            warnings.append(f"Only the first {tokenizer.max_length} words were read.")
        return tuple(warnings)
