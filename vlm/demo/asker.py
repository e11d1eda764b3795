"""Put a question about an image to one or several models, for the page and the API."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Lock
from time import perf_counter
from typing import Any

import numpy as np
from PIL import Image

from vlm.adapters.image_text_to_text import ImageTextToText, SeenImage
from vlm.demo.examples import unlike
from vlm.demo.reply import NO_REASONS_BECAUSE, Reply, doubts
from vlm.evaluation.answer_table import Row, Said, answer_rows
from vlm.explain import METHODS, Explanation, methods_for
from vlm.explain.case import Case
from vlm.explain.explainer import explain_case, explained
from vlm.explain.whole_case import WholeCase
from vlm.heads.base import AnswerKind
from vlm.heads.generation.head import CUT
from vlm.heads.multi_task import answering
from vlm.image.rgb import WhiteLevel
from vlm.inference import VQA, Seen
from vlm.serve.questions import (
    are_texts,
    check_choices,
    check_images,
    check_question,
    check_reads_images,
    time_limit,
)
from vlm.serve.reader import MAX_PIXELS, UploadedImage, digest_of, read_upload

IMAGES_KEPT = 16
BYTES_KEPT = 256_000_000
"""Of encoded images: models of the hub keep them at full size."""
PIXELS_TOGETHER = 2 * MAX_PIXELS
"""Of all images of a question."""
REASONS_KEPT = 64
"""Explanations kept, so that going back to a method computes nothing."""
SHOWN = 768
"""Longer side of the copy that the page shows, in pixels."""
SECONDS = 60.0
"""Time limit for a question, and again for the reasons for each answer."""
TOP = 5
NO_REASONS = "none"
"""The method that finds no reasons."""
SMALL = 5_000_000
"""Parameters up to which hiding parts of the image one by one is quick on a CPU."""


@dataclass(frozen=True)
class Look:
    """An image that the models have encoded: a copy to draw on, the size (width, height) of the
    original, notes about the file, and what each asked model made of it. Of several images of a
    question the copies are side by side, and the size is the first one's."""

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
        self._reasons: OrderedDict[Hashable, Explanation] = OrderedDict()
        self._lock = Lock()  # models answer in turn: threads would only slow each other down

    @property
    def methods(self) -> list[str]:
        """The explanations that fit at least one of the models, the best to begin with first: one
        that fits all."""
        each = [set(methods_for(explained(vqa))) for vqa in self.models.values()]
        fitting, common = set[str]().union(*each), each[0].intersection(*each)
        large = any(parameters(vqa) > SMALL for vqa in self.models.values())
        names = [name for name in METHODS if name in fitting]
        return sorted(names, key=lambda n: (n not in common, not (large and n == "grad_cam")))

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

    def look(self, content: bytes, names: Sequence[str], others: Sequence[bytes] = ()) -> Look:
        """Encode an image with each model, so that questions about it are answered at once;
        `others` are further images of the same question.

        Raises:
            ImageError: a file that cannot be read; see `read_upload`.
            ValueError: an unknown model, or more images than a model takes.
        """
        self._check_names(names)
        with self._turn():
            return self._look([content, *others], names)

    def _look(self, contents: Sequence[bytes], names: Sequence[str]) -> Look:
        for name in names:
            check_images(self.models[name], len(contents))
        key = " ".join(map(digest_of, contents))
        look = self._looks.get(key)
        levels: dict[str, WhiteLevel] = {}
        for name in names:
            if look is None or name not in look.seen:
                transform: Any = self.models[name].transform
                levels[name] = transform.white_level
        images = {
            level: self._read_all(contents, level) for level in dict.fromkeys(levels.values())
        }
        if look is None:
            first = images[levels[names[0]]]
            notes = dict.fromkeys(note for one in first for note in one.notes)
            shown = _beside([one.image for one in first])
            self._looks[key] = look = Look(shown, first[0].image.size, tuple(notes), {})
            if len(self._looks) > IMAGES_KEPT:
                self._looks.popitem(last=False)
        self._looks.move_to_end(key)
        for name, level in levels.items():
            look.seen[name] = self.models[name].see([[one.image for one in images[level]]])[0]
        while len(self._looks) > 1 and self._bytes > BYTES_KEPT:
            self._looks.popitem(last=False)
        return look

    def _read_all(self, contents: Sequence[bytes], level: WhiteLevel) -> list[UploadedImage]:
        """The images of a question, all in memory."""
        read, pixels = [], 0
        for content in contents:
            read.append(self._read(content, level))
            pixels += read[-1].image.width * read[-1].image.height
            if pixels > PIXELS_TOGETHER:
                raise ValueError(
                    f"The images of this question have more than {PIXELS_TOGETHER // 10**6} "
                    f"million pixels together; scale them down."
                )
        return read

    @property
    def _bytes(self) -> int:
        return sum(seen.nbytes for look in self._looks.values() for seen in look.seen.values())

    def ask(
        self,
        content: bytes,
        question: str,
        names: Sequence[str],
        choices: Sequence[str] = (),
        max_risk: float | None = None,
        others: Sequence[bytes] = (),
    ) -> list[Reply]:
        """One reply of each model to a question about an image file's content, and about `others`
        after it; only models that choose see the choices.

        Raises:
            ImageError: a file that cannot be read.
            ValueError: a question or choices that are missing or too long, an unknown model, more
                images than a model takes, or a `max_risk` that a model has no threshold for.
        """
        self._check(question, names, choices)
        with self._turn():
            look, digest = self._look([content, *others], names), digest_of(content)
            return [self._reply(name, look, digest, question, choices, max_risk) for name in names]

    def _reply(
        self,
        name: str,
        look: Look,
        digest: str,
        question: str,
        choices: Sequence[str],
        max_risk: float | None,
    ) -> Reply:
        given = self._choices_of(name, choices)
        start = perf_counter()
        answer = self.models[name].answer(look.seen[name], question, TOP, given, max_risk)
        milliseconds = 1000 * (perf_counter() - start)
        warnings = (*answer.warnings, *unlike(self.models[name], digest))
        notes = (*doubts(answer), *look.notes)
        scale = self._scale(name, given is not None)
        return Reply(name, answer, scale, warnings, notes, milliseconds)

    def explain(
        self,
        content: bytes,
        question: str,
        reply: Reply,
        method: str,
        choices: Sequence[str] = (),
        others: Sequence[bytes] = (),
    ) -> Reply:
        """The `reply` of `ask` with the reasons for its answer, or with a note that says why there
        are none. A guess has no reasons; of a model that abstains, they are those of the answer
        that it would have given. `method` is a name in `vlm.explain.METHODS`, or "none".

        Raises:
            ValueError: an unknown method.
        """
        if method not in (NO_REASONS, *METHODS):
            raise ValueError(
                f"method: got {method!r:.80}; expected one of {', '.join((NO_REASONS, *METHODS))}."
            )
        if method == NO_REASONS or reply.answer.is_guess:
            return reply
        if others:
            why = f"{NO_REASONS_BECAUSE} a map is of one image, and this question is about several."
            return replace(reply, notes=(*reply.notes, why))
        name, given = reply.model, self._choices_of(reply.model, choices)
        key = (digest_of(content), question, given and tuple(given), name, reply.best, method)
        try:
            found = self._reasons.pop(key, None) or self._explain(
                content, question, name, reply.best, method, given
            )
        except ValueError as error:
            return replace(reply, notes=(*reply.notes, f"{NO_REASONS_BECAUSE} {error}"))
        self._reasons[key] = found
        while len(self._reasons) > REASONS_KEPT:
            self._reasons.popitem(last=False)
        return replace(reply, explanation=found)

    def _explain(
        self,
        content: bytes,
        question: str,
        name: str,
        answer: str,
        method: str,
        choices: Sequence[str] | None,
    ) -> Explanation:
        vqa = self.models[name]
        whole = isinstance(vqa, ImageTextToText)
        if answer.endswith(CUT) if whole else answering(vqa.model.head).truncated_at(answer):
            raise ValueError("the answer never ended.")
        with self._turn():
            start = perf_counter()
            look = self._look([content], [name])
            seen: Any = look.seen[name]
            if isinstance(vqa, ImageTextToText):
                case: Case = WholeCase(vqa, seen.image, question, answer, choices)
            else:
                known = vqa.calibration
                case = Case(vqa.model, seen.images, look.size, question, answer, choices, known)
            found = explain_case(case, METHODS[method](), start=start)
        numbers = (found.evidence, found.patches, found.word_relevance, found.word_patch)
        if not all(np.isfinite(values).all() for values in numbers if values is not None):
            raise ValueError("its output is not finite: the weights are damaged or too large.")
        return found

    def answer_rows(self, name: str, contents: Sequence[bytes], rows: Sequence[Row]) -> list[Said]:
        """What a model says to rows of a table, each about the image file of the same place; with
        the errors of `ask`."""
        for row in rows:
            self._check(row["question"], [name], row["choices"])
        with self._turn():
            seen = [self._look([content], [name]).seen[name] for content in contents]
            return answer_rows(self.models[name], seen, rows)

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


def _beside(images: Sequence[Image.Image]) -> Image.Image:
    """A copy of an image to draw on; of several, in a row."""
    copies = []
    for image in images:
        copies.append(image.copy())
        copies[-1].thumbnail((SHOWN // len(images), SHOWN))
    if len(copies) == 1:
        return copies[0]
    size = sum(copy.width for copy in copies), max(copy.height for copy in copies)
    row, left = Image.new("RGB", size, "white"), 0
    for copy in copies:
        row.paste(copy, (left, 0))
        left += copy.width
    return row


def parameters(vqa: VQA | ImageTextToText) -> int:
    """The number of a model's parameters."""
    return sum(parameter.numel() for parameter in vqa.model.parameters())
