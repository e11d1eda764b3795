"""Put a question about an image to one or several models, for the page and the API."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Lock
from time import perf_counter
from typing import Any

import numpy as np
from PIL import Image

from vlm.adapters.image_text_to_text import ImageTextToText, SeenImage
from vlm.asking import ABOVE_RISK, percent
from vlm.explain import METHODS, Explanation, methods_for
from vlm.explain.case import Case
from vlm.explain.explainer import explain_case, explained
from vlm.explain.whole_case import WholeCase
from vlm.heads.base import AnswerKind
from vlm.heads.generation.head import CUT
from vlm.heads.multi_task import answering
from vlm.image.rgb import WhiteLevel
from vlm.inference import VQA, Answer, Seen
from vlm.serve.questions import (
    are_texts,
    as_dict,
    check_choices,
    check_question,
    check_reads_images,
    time_limit,
)
from vlm.serve.reader import UploadedImage, digest_of, read_upload

IMAGES_KEPT = 16
SHOWN = 768
"""Longer side of the copy that the page shows, in pixels."""
SECONDS = 60.0
"""Time limit for a question, and again for the reasons for each answer."""
TOP = 5
UNSURE = 0.5
"""A best answer that is less likely is called a guess."""
NO_REASONS = "none"
"""The method that finds no reasons."""
SMALL = 5_000_000
"""Parameters up to which hiding parts of the image one by one is quick on a CPU."""


@dataclass(frozen=True)
class Reply:
    """The answer of one model.

    Attributes:
        model: its name in the demo.
        answer: the answer, with the most likely ones.
        scale: what the probabilities mean, a sentence or two.
        notes: what to know before believing the answer, one sentence each.
        milliseconds: time from question to answer in the model; the image was encoded before.
        explanation: which words and places decided, if requested.
    """

    model: str
    answer: Answer
    scale: str
    notes: tuple[str, ...]
    milliseconds: float
    explanation: Explanation | None = None

    def as_dict(self) -> dict[str, Any]:
        """The reply for JSON; see docs/demo.md."""
        return {
            "model": self.model,
            **as_dict(self.answer),
            "scale": self.scale,
            "notes": list(self.notes),
            "milliseconds": round(self.milliseconds, 3),
            "explanation": None if self.explanation is None else self.explanation.as_dict(),
        }


@dataclass(frozen=True)
class Look:
    """An image that the models have encoded: a copy to draw on, the size (width, height) of the
    original, notes about the file, and what each asked model made of it."""

    shown: Image.Image
    size: tuple[int, int]
    notes: tuple[str, ...]
    seen: dict[str, Seen | SeenImage]


class Asker:
    """Put questions to models, one at a time, and keep what they made of the last images.

    `read` reads an image file's content with a model's white level.

    Raises:
        ValueError: no models, or one that reads region features instead of images.
    """

    def __init__(
        self,
        models: Mapping[str, VQA | ImageTextToText],
        read: Callable[[bytes, WhiteLevel], UploadedImage] = read_upload,
    ) -> None:
        if not models:
            raise ValueError("models: got none; expected at least one.")
        for name, vqa in models.items():
            check_reads_images(vqa, name)
        self.models, self._read = dict(models), read
        self._looks: OrderedDict[str, Look] = OrderedDict()
        self._lock = Lock()  # models answer in turn: threads would only slow each other down

    @property
    def methods(self) -> list[str]:
        """The explanations that fit at least one of the models, the best to begin with first."""
        fitting = {name for vqa in self.models.values() for name in methods_for(explained(vqa))}
        large = any(parameters(vqa) > SMALL for vqa in self.models.values())
        names = [name for name in METHODS if name in fitting]
        return sorted(names, key=lambda name: not (large and name == "grad_cam"))

    @property
    def least_risk(self) -> float | None:
        """The smallest risk that each of the models has a threshold for; None where one has
        none."""
        held = [
            [t.risk for t in vqa.calibration.thresholds if t.probability is not None]
            for vqa in self.models.values()
            if vqa.calibration is not None
        ]
        return max(map(min, held)) if len(held) == len(self.models) and all(held) else None

    def kind(self, name: str) -> AnswerKind:
        """How a model answers: from its vocabulary, from given choices, or in free text."""
        return self.models[name].kind

    def takes_choices(self, name: str) -> bool:
        """Whether a model reads choices if there are some."""
        return self.kind(name) == "choices" or self.models[name].ranks_choices

    def _choices_of(self, name: str, choices: Sequence[str]) -> list[str] | None:
        needs = self.kind(name) == "choices"
        return list(choices) if needs or (choices and self.takes_choices(name)) else None

    def look(self, content: bytes, names: Sequence[str]) -> Look:
        """Encode an image with each model, so that questions about it are answered at once.

        Raises:
            ImageError: a file that cannot be read; see `read_upload`.
            ValueError: an unknown model.
        """
        self._check_names(names)
        with self._turn():
            return self._look(content, names)

    def _look(self, content: bytes, names: Sequence[str]) -> Look:
        key = digest_of(content)
        look = self._looks.get(key)
        levels: dict[str, WhiteLevel] = {}
        for name in names:
            if look is None or name not in look.seen:
                transform: Any = self.models[name].transform
                levels[name] = transform.white_level
        images = {level: self._read(content, level) for level in dict.fromkeys(levels.values())}
        if look is None:
            first = images[levels[names[0]]]
            shown = first.image.copy()
            shown.thumbnail((SHOWN, SHOWN))
            self._looks[key] = look = Look(shown, first.image.size, first.notes, {})
            if len(self._looks) > IMAGES_KEPT:
                self._looks.popitem(last=False)
        self._looks.move_to_end(key)
        for name, level in levels.items():
            look.seen[name] = self.models[name].see(images[level].image)
        return look

    def ask(
        self,
        content: bytes,
        question: str,
        names: Sequence[str],
        choices: Sequence[str] = (),
        max_risk: float | None = None,
    ) -> list[Reply]:
        """One reply of each model to a question about an image file's content; only models that
        choose see the choices.

        Raises:
            ImageError: a file that cannot be read.
            ValueError: a question or choices that are missing or too long, an unknown model, or a
                `max_risk` that a model has no threshold for.
        """
        self._check(question, names, choices)
        with self._turn():
            look = self._look(content, names)
            return [self._reply(name, look, question, choices, max_risk) for name in names]

    def _reply(
        self,
        name: str,
        look: Look,
        question: str,
        choices: Sequence[str],
        max_risk: float | None,
    ) -> Reply:
        given = self._choices_of(name, choices)
        start = perf_counter()
        answer = self.models[name].answer(look.seen[name], question, TOP, given, max_risk)
        milliseconds = 1000 * (perf_counter() - start)
        notes = (*answer.warnings, *doubts(answer), *look.notes)
        return Reply(name, answer, self._scale(name, given is not None), notes, milliseconds)

    def explain(
        self, content: bytes, question: str, reply: Reply, method: str, choices: Sequence[str] = ()
    ) -> Reply:
        """The `reply` of `ask` with the reasons for its answer, or with a note that says why there
        are none. A guess has no reasons. `method` is a name in `vlm.explain.METHODS`, or "none".

        Raises:
            ValueError: an unknown method.
        """
        if method not in (NO_REASONS, *METHODS):
            raise ValueError(
                f"method: got {method!r:.80}; expected one of {', '.join((NO_REASONS, *METHODS))}."
            )
        if method == NO_REASONS or reply.answer.is_guess:
            return reply
        # Of a model that abstains, the answer that it would have given.
        name, text = reply.model, reply.answer.top[0][0]
        vqa, given = self.models[name], self._choices_of(name, choices)
        try:
            whole = isinstance(vqa, ImageTextToText)
            if text.endswith(CUT) if whole else answering(vqa.model.head).truncated_at(text):
                raise ValueError("the answer never ended.")
            with self._turn():
                start = perf_counter()
                look = self._look(content, [name])
                seen: Any = look.seen[name]
                if isinstance(vqa, ImageTextToText):
                    case: Case = WholeCase(vqa, seen.image, question, text, given)
                else:
                    known = vqa.calibration
                    case = Case(vqa.model, seen.images, look.size, question, text, given, known)
                found = explain_case(case, METHODS[method](), start=start)
            numbers = (found.evidence, found.patches, found.word_relevance, found.word_patch)
            if not all(np.isfinite(values).all() for values in numbers if values is not None):
                raise ValueError("its output is not finite: the weights are damaged or too large.")
        except ValueError as error:
            return replace(reply, notes=(*reply.notes, f"No reasons: {error}"))
        return replace(reply, explanation=found)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Hold the models for the block, and stop them between two layers after `SECONDS`.

        Raises:
            ValueError: the time is over.
        """

        with self._lock, time_limit(SECONDS):
            yield

    def _check(self, question: str, names: Sequence[str], choices: Sequence[str]) -> None:
        check_question(question)
        self._check_names(names)
        chooses = any(self.kind(name) == "choices" for name in names)
        if chooses or (choices and any(map(self.takes_choices, names))):
            check_choices(choices)

    def _check_names(self, names: Sequence[str]) -> None:
        # Each once: a long list of one name would keep all others waiting.
        known = are_texts(names) and names and set(names) <= set(self.models)
        if not known or len(set(names)) < len(names):
            raise ValueError(
                f"models: got {names!r:.200}; expected some of {', '.join(self.models)}, each once."
            )

    def _scale(self, name: str, chosen: bool) -> str:
        vqa, kind = self.models[name], self.kind(name)
        head = answering(vqa.model.head) if isinstance(vqa, VQA) else None
        if chosen:
            meaning = "Shares among the choices."
        elif kind == "text":
            meaning = "The probability of writing exactly this."
        elif getattr(head, "independent", False):
            meaning = "Each answer has a probability of its own; they need not add up to 100 %."
        else:
            count = len((head and head.vocabulary) or ())
            meaning = f"Shares among all {count:,} answers of the model."
        if known := self.models[name].calibration:
            return f"{meaning} {known.about.capitalize()}."
        return f"{meaning} Not calibrated: 90 % does not mean right nine times in ten."


def doubts(answer: Answer) -> list[str]:
    """A note if the model is unsure."""
    if answer.is_guess:  # its warnings say so, and its probability means nothing
        return []
    if answer.abstains:
        return [f"{ABOVE_RISK.capitalize()}. Less certain answers are below."]
    if answer.probability < UNSURE:
        return [f"The model is unsure: it gives its best answer {percent(answer.probability)}."]
    if len(answer.top) > 1 and answer.top[1][1] > 0.8 * answer.probability:
        (first, p), (second, q) = answer.top[:2]
        return [f"A close call: {first!r} {percent(p)}, {second!r} {percent(q)}."]
    return []


def agreement(replies: Sequence[Reply]) -> bool | None:
    """Whether two or more models agree; None for one model, or if one gives no answer."""
    if any(reply.answer.is_guess or reply.answer.abstains for reply in replies):
        return None
    texts = {reply.answer.text.strip().lower() for reply in replies}
    return len(texts) == 1 if len(replies) > 1 else None


def parameters(vqa: VQA | ImageTextToText) -> int:
    """The number of a model's parameters."""
    return sum(parameter.numel() for parameter in vqa.model.parameters())
