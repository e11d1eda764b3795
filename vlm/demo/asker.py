"""Questions to one model or several about a picture: what the page and the API do."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Lock
from time import monotonic, perf_counter
from typing import Any

import numpy as np
from PIL import Image
from torch.nn.modules.module import register_module_forward_pre_hook

from vlm.demo.photo import Photo, digest_of, read_photo, small_copy
from vlm.explain import METHODS, Explanation, methods_for
from vlm.explain.case import Case
from vlm.explain.explainer import explain_case
from vlm.heads.base import AnswerKind
from vlm.heads.multi_task import answering
from vlm.image.rgb import WhiteLevel
from vlm.image.transform import ImageTransform
from vlm.inference import VQA, Answer, Seen

MAX_QUESTION = 500
"""Characters; a page cannot be trusted to keep to it."""
MAX_CHOICES = 20
MAX_CHOICE = 200
PHOTOS_KEPT = 16
SECONDS = 60.0
"""Time limit for a question, and again for the reasons for each answer."""
TOP = 5
UNSURE = 0.5
"""A best answer that is less likely is called a guess."""
NO_REASONS = "none"
"""The method that finds no reasons."""
SMALL = 5_000_000
"""Parameters up to which hiding parts of the picture one by one takes no patience on a CPU."""


@dataclass(frozen=True)
class Reply:
    """What one model says.

    Attributes:
        model: its name in the demo.
        answer: with the most likely ones.
        scale: what the probabilities mean, a sentence or two.
        notes: what should be known before the answer is believed, one sentence each.
        milliseconds: from question to answer in the model; the picture was looked at before.
        explanation: which words and places decided, if it was asked for.
    """

    model: str
    answer: Answer
    scale: str
    notes: tuple[str, ...]
    milliseconds: float
    explanation: Explanation | None = None

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        answer, guess = self.answer, self.answer.is_guess
        return {
            "model": self.model,
            "answer": None if guess else answer.text,
            "probability": None if guess else answer.probability,
            "top": [] if guess else [{"answer": text, "probability": p} for text, p in answer.top],
            "guess": answer.text if guess else None,
            "calibrated": False,
            "scale": self.scale,
            "notes": list(self.notes),
            "milliseconds": round(self.milliseconds, 3),
            "explanation": None if self.explanation is None else self.explanation.as_dict(),
        }


@dataclass(frozen=True)
class Look:
    """A picture that the models have seen.

    Attributes:
        shown: a copy to draw on.
        size: (width, height) of the picture as it was sent.
        notes: about the file.
        seen: by each model that was asked about it, by its name.
    """

    shown: Image.Image
    size: tuple[int, int]
    notes: tuple[str, ...]
    seen: dict[str, Seen]


class Asker:
    """Asks models about pictures, one question at a time, and keeps the last pictures' features.

    Args:
        models: trained models by the names that the demo shows.
        read: reads an image file's content with a model's white level.

    Raises:
        ValueError: no models, or one that reads region features instead of pictures.
    """

    def __init__(
        self,
        models: Mapping[str, VQA],
        read: Callable[[bytes, WhiteLevel], Photo] = read_photo,
    ) -> None:
        if not models:
            raise ValueError("models: got none; wanted one at least.")
        for name, vqa in models.items():
            if not isinstance(vqa.model.image_encoder.transform, ImageTransform):
                raise ValueError(
                    f"{name}: this model reads region features from .npz files; the demo needs one "
                    f"that reads pictures."
                )
        self.models, self._read = dict(models), read
        self._looks: OrderedDict[str, Look] = OrderedDict()
        self._lock = Lock()  # models are asked in turn: threads would only slow each other down

    @property
    def methods(self) -> list[str]:
        """The explanations that fit one of the models at least, the best to begin with first."""
        fitting = {name for vqa in self.models.values() for name in methods_for(vqa.model)}
        names = [name for name in METHODS if name in fitting]
        large = any(_parameters(vqa) > SMALL for vqa in self.models.values())
        first = "grad_cam" if large and "grad_cam" in names else names[0]
        return [first, *(name for name in names if name != first)]

    def kind(self, name: str) -> AnswerKind:
        """How a model answers: from its vocabulary, from given choices, or in free text."""
        head = answering(self.models[name].model.head)
        if head.takes_choices:
            return "choices"
        return "text" if head.vocabulary is None else "vocabulary"

    def look(self, content: bytes, names: Sequence[str]) -> Look:
        """Read a picture and show it to models, so that questions about it are answered at once.

        Raises:
            ImageError: a file that cannot be read; see `read_photo`.
            ValueError: an unknown model.
        """
        self._check_names(names)
        with self._lock, in_time():
            return self._look(content, names)

    def _look(self, content: bytes, names: Sequence[str]) -> Look:
        key = digest_of(content)
        photos: dict[WhiteLevel, Photo] = {}

        def photo_for(name: str) -> Photo:
            transform: Any = self.models[name].model.image_encoder.transform
            level = transform.white_level
            if level not in photos:
                photos[level] = self._read(content, level)
            return photos[level]

        look = self._looks.get(key)
        if look is None:
            photo = photo_for(names[0])
            look = Look(small_copy(photo.image), photo.image.size, photo.notes, {})
            self._looks[key] = look
            if len(self._looks) > PHOTOS_KEPT:
                self._looks.popitem(last=False)
        self._looks.move_to_end(key)
        for name in names:
            if name not in look.seen:
                look.seen[name] = self.models[name].see(photo_for(name).image)
        return look

    def ask(
        self,
        content: bytes,
        question: str,
        names: Sequence[str],
        choices: Sequence[str] = (),
    ) -> list[Reply]:
        """One reply of each model.

        Args:
            content: of a picture file.
            question: what to ask.
            names: of the models.
            choices: for models that choose; others do not see them.

        Raises:
            ImageError: a file that cannot be read.
            ValueError: a question or choices that are missing or too long, or an unknown model.
        """
        self._check(question, names, choices)
        with self._lock, in_time():
            look = self._look(content, names)
            return [self._reply(name, look, question, choices) for name in names]

    def _reply(self, name: str, look: Look, question: str, choices: Sequence[str]) -> Reply:
        vqa, kind = self.models[name], self.kind(name)
        start = perf_counter()
        if kind == "choices":
            answer = vqa.answer(look.seen[name], question, TOP, choices)
        else:
            answer = vqa.answer(look.seen[name], question, TOP)
        milliseconds = 1000 * (perf_counter() - start)
        notes = (*answer.warnings, *doubts(answer), *look.notes)
        return Reply(name, answer, self._scale(name), notes, milliseconds)

    def explain(
        self, content: bytes, question: str, reply: Reply, method: str, choices: Sequence[str] = ()
    ) -> Reply:
        """The reply with the reasons for its answer, or with a note that says why there are none.
        A guess has no reasons.

        Args:
            method: a name in `vlm.explain.METHODS`, or "none".

        Raises:
            ValueError: an unknown method.
        """
        if method not in (NO_REASONS, *METHODS):
            raise ValueError(
                f"method: got {method!r:.80}; expected one of {', '.join((NO_REASONS, *METHODS))}."
            )
        if method == NO_REASONS or reply.answer.is_guess:
            return reply
        vqa = self.models[reply.model]
        if answering(vqa.model.head).truncated_at(reply.answer.text):
            return replace(reply, notes=(*reply.notes, "No reasons: the answer never ended."))
        given = list(choices) if self.kind(reply.model) == "choices" else None
        with self._lock:
            start = perf_counter()
            try:
                with in_time():
                    look = self._look(content, [reply.model])
                    images, text = look.seen[reply.model].images, reply.answer.text
                    case = Case(vqa.model, images, look.size, question, text, given)
                    found = explain_case(case, METHODS[method](), start=start)
                _check_finite(found.evidence, found.patches, found.word_relevance, found.word_patch)
            except ValueError as error:
                return replace(reply, notes=(*reply.notes, f"No reasons: {error}"))
        return replace(reply, explanation=found)

    def _check(self, question: str, names: Sequence[str], choices: Sequence[str]) -> None:
        if not isinstance(question, str | None):
            raise ValueError(f"question: got {question!r:.80}; expected a text.")
        if not question or not question.strip():
            raise ValueError("The question is empty; type one about the picture.")
        if len(question) > MAX_QUESTION:
            raise ValueError(
                f"The question has {len(question):,} characters; at most {MAX_QUESTION} are read. "
                f"Shorten it."
            )
        self._check_names(names)
        if any(self.kind(name) == "choices" for name in names):
            if not _texts(choices):
                raise ValueError(f"choices: got {choices!r:.200}; wanted a list of texts.")
            if len(choices) < 2 or len(choices) > MAX_CHOICES:
                raise ValueError(
                    f"This model chooses between answers that you give it: write 2 to "
                    f"{MAX_CHOICES}, one a line (got {len(choices)})."
                )
            if (longest := max(map(len, choices), default=0)) > MAX_CHOICE:
                raise ValueError(
                    f"A choice has {longest:,} characters; at most {MAX_CHOICE} are read."
                )

    def _check_names(self, names: Sequence[str]) -> None:
        # Each once: a long list of one name would keep all others waiting.
        known = _texts(names) and names and set(names) <= set(self.models)
        if not known or len(set(names)) < len(names):
            raise ValueError(
                f"models: got {names!r:.200}; wanted some of {', '.join(self.models)}, each once."
            )

    def _scale(self, name: str) -> str:
        head = answering(self.models[name].model.head)
        not_calibrated = "Not calibrated: 90 % does not mean right nine times in ten."
        if self.kind(name) == "choices":
            return f"Shares among the choices. {not_calibrated}"
        if head.vocabulary is None:
            return f"The probability of writing exactly this. {not_calibrated}"
        if getattr(head, "independent", False):
            return (
                f"Each answer has a probability of its own; they need not add up to 100 %. "
                f"{not_calibrated}"
            )
        return f"Shares among all {len(head.vocabulary):,} answers it knows. {not_calibrated}"


def doubts(answer: Answer) -> list[str]:
    """An honest line where the model is unsure."""
    if answer.is_guess:  # its warnings say so, and its probability means nothing
        return []
    if answer.probability < UNSURE:
        return [f"The model is unsure: it gives its best answer {percent(answer.probability)}."]
    if len(answer.top) > 1 and answer.top[1][1] > 0.8 * answer.probability:
        (first, p), (second, q) = answer.top[:2]
        return [f"A close call: {first!r} {percent(p)}, {second!r} {percent(q)}."]
    return []


def agreement(replies: Sequence[Reply]) -> bool | None:
    """Whether two or more models agree; None for one model, or if one only guesses."""
    if any(reply.answer.is_guess for reply in replies):
        return None
    texts = {reply.answer.text.strip().lower() for reply in replies}
    return len(texts) == 1 if len(replies) > 1 else None


def percent(probability: float) -> str:
    """A probability as people read it.

    >>> percent(0.1234), percent(1.0), percent(0.00001)
    ('12.3 %', '> 99.9 %', '< 0.1 %')
    """
    if probability > 0.999:
        return "> 99.9 %"
    return f"{100 * probability:.1f} %" if probability >= 0.001 else "< 0.1 %"


@contextmanager
def in_time() -> Iterator[None]:
    """Inside, models stop between two of their layers after `SECONDS`.

    Raises:
        ValueError: inside, when they stop.
    """
    end = monotonic() + SECONDS

    def check(*_: object) -> None:
        if monotonic() > end:
            raise ValueError(f"It took longer than {SECONDS:g} s.")

    hook = register_module_forward_pre_hook(check)
    try:
        yield
    finally:
        hook.remove()


def _check_finite(*values: Any) -> None:
    if not all(np.isfinite(value).all() for value in values if value is not None):
        raise ValueError("The model's output is not finite: its weights are damaged or too large.")


def _texts(values: object) -> bool:
    return isinstance(values, (list, tuple)) and all(isinstance(v, str) for v in values)


def _parameters(vqa: VQA) -> int:
    return sum(parameter.numel() for parameter in vqa.model.parameters())
