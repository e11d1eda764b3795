"""From a question about an image to the explanation of its answer."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np
from torch import Tensor

from vlm.adapters.image_text_to_text import ImageTextToText
from vlm.asking import is_list
from vlm.core.calibration import Calibration
from vlm.core.validation import counted, mistake_in
from vlm.explain.case import Case
from vlm.explain.explanation import Explanation
from vlm.explain.methods import METHODS, Method, Occlusion
from vlm.explain.methods.base import LOST
from vlm.explain.spans import token_spans
from vlm.explain.whole_case import WholeCase
from vlm.image.load import load_image
from vlm.image.transform import ImageTransform
from vlm.inference import VQA
from vlm.model import VQAModel


def explain(
    vqa: VQA | ImageTextToText,
    image: Any,
    question: str,
    method: Method | None = None,
    answer: str | None = None,
    choices: Sequence[str] | None = None,
    per_word: bool = True,
) -> Explanation:
    """Explain which words and which parts of the image an answer rests on.

    Args:
        vqa: a trained model. For an image-text-to-text model only `Occlusion` works, on the
            log-likelihood of the answer, and without a map for each word.
        image: an image in any form that `VQA.answer` takes.
        question: one question about it.
        method: explanation method; None for `Occlusion()`, which fits every model.
        answer: the answer to explain; None for the model's own.
        choices: choices of a multiple-choice question.
        per_word: whether to find each word's share of the map, which disappears without the word.
            This runs the method once more for every word, unless attention has a map for each.

    Raises:
        ValueError: several images, an empty question, an answer that the head cannot give, or a
            method that does not fit the model.
        ImageError: an image that cannot be read.
    """
    start = perf_counter()
    known = vqa.calibration if isinstance(vqa, VQA) else None
    case = make_case(explained(vqa), image, question, answer, choices, known)
    return explain_case(case, method or Occlusion(), per_word, start)


def explained(vqa: VQA | ImageTextToText) -> VQAModel | ImageTextToText:
    """What `make_case` and `methods_for` take of a loaded model."""
    return vqa.model if isinstance(vqa, VQA) else vqa


def make_case(
    model: VQAModel | ImageTextToText,
    image: Any,
    question: str,
    answer: str | None = None,
    choices: Sequence[str] | None = None,
    calibration: Calibration | None = None,
) -> Case:
    """What `explain` explains, to be explained by several methods; it raises the same errors."""
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"question: got {question!r}; expected text that asks about the image.")
    if isinstance(choices, str):
        raise ValueError(f"choices: got {choices!r}; expected a list of texts.")
    if choices is not None and (mistake := mistake_in(choices)):
        raise ValueError(f"choices: {mistake}")
    if is_list(image):
        raise ValueError(
            f"image: got a list of {counted(len(image), 'image')}; expected one image. Answers "
            f"about several are not explained, since a map is of one image."
        )
    if isinstance(model, ImageTextToText):
        return WholeCase(model, load_image(image), question, answer, choices)
    transform: Any = model.image_encoder.transform
    size = (1, 1)
    if isinstance(transform, ImageTransform):
        image = load_image(image, transform.white_level)
        size = image.size
    images = transform.stack([transform.open(image)])
    return Case(model, images, size, question, answer, choices, calibration)


def explain_case(
    case: Case, method: Method, per_word: bool = True, start: float | None = None
) -> Explanation:
    """Explain a case that `make_case` made; see `explain`.

    The work began at `start`, a time of `time.perf_counter`; None is now.
    """
    start = perf_counter() if start is None else start
    if isinstance(case, WholeCase) and not isinstance(method, Occlusion):
        raise ValueError(
            f"method: got {method.name}; expected {Occlusion.name}, since of this model only the "
            f"likelihood of its answers is known."
        )
    variants = case.without_each_word()
    per_word = per_word and case.per_word
    found = method.relevance(case, variants if per_word else variants[:1])
    evidence = case.evidence(kept=variants)[0]  # (1 + L,)
    words = evidence[0] - evidence[1:] if found.words is None else found.words
    each: Tensor | None = found.word_patch if per_word else None
    if per_word and each is None:
        each = found.patches[0] - found.patches[1:]
    return Explanation(
        question=case.question,
        answer=case.answer,
        own_answer=case.ranked[0][0] if case.ranks_all else None,
        probability=dict(case.ranked).get(case.answer),
        calibrated=case.calibration is not None,
        evidence=evidence[0].item(),
        words=case.tokens,
        spans=token_spans(case.question, case.tokens),
        word_relevance=_array(words),
        boxes=_array(case.in_photo(found.cells.boxes)),
        grid=found.cells.grid,
        patches=_array(found.patches[0]),
        word_patch=None if each is None else _array(each),
        image_size=case.image_size,
        method=method.name,
        unit=method.unit,
        signed=method.signed,
        word_unit=LOST if found.words is None else method.unit,
        words_signed=found.words is None or method.signed,
        warnings=case.warnings,
        is_guess=case.is_guess,
        seconds=perf_counter() - start,
    )


def methods_for(model: VQAModel | ImageTextToText) -> list[str]:
    """The names of the methods that fit a model, as in `METHODS`."""
    if isinstance(model, ImageTextToText):
        return [Occlusion.name]
    return [name for name, method in METHODS.items() if method.fits(model)]


def _array(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()
