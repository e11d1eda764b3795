"""One model for many clients: images are read and encoded once, questions answered in batches."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import BytesIO
from threading import Lock
from time import perf_counter
from typing import Any

from PIL import Image

from vlm.asking import Answer, Asking
from vlm.image.rgb import BYTES_PER_PIXEL, WhiteLevel
from vlm.serve.batcher import Batcher, FullError
from vlm.serve.metrics import Metrics
from vlm.serve.questions import (
    check_choices,
    check_images,
    check_question,
    check_reads_images,
    time_limit,
)
from vlm.serve.reader import UploadedImage, digest_of

TOP = 5
MAX_PROMPT = 8000
"""Characters of a question: benchmarks put instructions, hints and options into it."""
CACHE_BYTES = 256_000_000
"""Of encoded images; the least recently used go first."""
WAITING_BYTES = 1_000_000_000
"""Of images that were read and wait for the model; while they take more, none is read."""


@dataclass(frozen=True)
class Reply:
    """An answer, with what was noted about the image's file."""

    answer: Answer
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Opened:
    """An image as the model's input, or a list of several of one question. For most models it is
    small, however large the image was; some models of the hub read images in their own size."""

    pixels: Any
    notes: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return _nbytes(self.pixels)


@dataclass(frozen=True)
class _Encoded:
    seen: Any
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Question:
    digest: str
    image: _Opened | _Encoded
    question: str
    choices: list[str] | None
    asked: float


class Service:
    """Answer questions about images with one model, many at a time.

    Args:
        vqa: the model or export, of which `kind`, `transform`, `encode` and `answer` are used.
        read: reads an image file's content with the model's white level.
        batch: questions of a batch; 1 answers them one by one.
        waiting: questions that may wait, for their image to be read or for the model; one more is
            refused.
        seconds: the time limit for a question, with its image and its waiting.

    Raises:
        ValueError: a model that reads region features instead of images.
    """

    def __init__(
        self,
        vqa: Asking,
        read: Callable[[bytes, WhiteLevel], UploadedImage],
        batch: int = 16,
        waiting: int = 256,
        seconds: float = 30.0,
    ) -> None:
        check_reads_images(vqa)
        self.vqa, self.seconds, self._read_file = vqa, seconds, read
        self.batcher = Batcher(self._answer, batch, waiting)
        self.metrics = Metrics(lambda: len(self.batcher))
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="image")
        self._turn = asyncio.Semaphore(1)
        self._to_read = 0
        self._encoded: OrderedDict[str, _Encoded] = OrderedDict()
        self._bytes = 0
        self._waiting_bytes = 0
        self._lock = Lock()

    def warm_up(self) -> None:
        """Read an image and answer a question, which takes longer the first time.

        Raises:
            AnswerError: the model cannot answer.
        """
        buffer = BytesIO()
        Image.new("RGB", (8, 8)).save(buffer, "PNG")
        seen = self.vqa.encode([self._open([buffer.getvalue()], math.inf).pixels])
        choices = ["yes", "no"] if self.vqa.kind == "choices" else None
        self.vqa.answer(seen[0], "What is it?", choices=choices)

    def check_room(self) -> None:
        """Refuse a question if as many wait as may.

        Raises:
            FullError: they do.
        """
        self.batcher.check(self._to_read)

    def _check_memory(self) -> None:
        if self._waiting_bytes > WAITING_BYTES:
            raise FullError(1)

    def check(self, question: object, choices: Sequence[str] | None, images: int = 1) -> None:
        """Refuse what the model cannot answer, before its images are read.

        Raises:
            ValueError: a question or choices that are missing, too long, or not for this model, or
                more images than it takes.
        """
        check_question(question, MAX_PROMPT)
        check_images(self.vqa, images)
        if self.vqa.kind == "choices":
            check_choices(choices or ())
        elif choices and self.vqa.ranks_choices:
            check_choices(choices)
        elif choices:
            raise ValueError(
                f"choices: got {len(choices)}, but this model does not choose; leave them out."
            )

    async def answer(
        self,
        contents: Sequence[bytes],
        question: str,
        choices: list[str] | None = None,
        least: float = 0.0,
    ) -> Reply:
        """The answer to a question that was checked, about the content of image files.

        Args:
            contents: of the files of its image or images, in their order.
            question, choices: as `check` accepts them.
            least: the lowest probability at which an answer is given.

        Raises:
            FullError: too many are waiting.
            TimeoutError: it took longer than `seconds`.
            ValueError: an image that cannot be read, or a model that cannot answer.
        """
        self.check_room()
        until = perf_counter() + self.seconds
        async with asyncio.timeout(self.seconds):
            digest = " ".join(map(digest_of, contents))
            image: _Opened | _Encoded | None = self._known(digest)
            self.metrics.images.labels("file" if image is None else "cache").inc()
            if image is None:
                loop = asyncio.get_running_loop()
                self._to_read += 1
                try:
                    # What waits here is dropped with its client; what an executor has is kept.
                    async with self._turn:
                        self._check_memory()
                        with self.metrics.stage("read"):
                            image = await loop.run_in_executor(
                                self._reading, self._read, contents, digest, until
                            )
                finally:
                    self._to_read -= 1
            item = _Question(digest, image, question, choices, perf_counter())
            held = image.nbytes if isinstance(image, _Opened) else 0
            self._waiting_bytes += held
            try:
                reply = await self.batcher(item)
            finally:
                self._waiting_bytes -= held
        reply = replace(reply, answer=reply.answer.within(least))
        if reply.answer.is_guess or reply.answer.abstains:
            self.metrics.abstentions.inc()
        else:
            self.metrics.confidence.observe(reply.answer.probability)
        return reply

    def _read(self, contents: Sequence[bytes], digest: str, until: float) -> _Opened | _Encoded:
        # Several clients may have sent the same image at once.
        return self._known(digest) or self._open(contents, until)

    def _open(self, contents: Sequence[bytes], until: float) -> _Opened:
        """The images of a question, one after the other, so that for most models one at a time is
        there at full size. None is begun after the time `until`, when nobody waits for it any
        more."""
        transform: Any = self.vqa.transform
        opened: list[Any] = []
        notes: dict[str, None] = {}
        for content in contents:
            if perf_counter() > until:
                raise TimeoutError
            read = self._read_file(content, transform.white_level)
            opened.append(transform.open(read.image))
            notes |= dict.fromkeys(read.notes)
        return _Opened(opened if len(opened) > 1 else opened[0], tuple(notes))

    def _answer(self, items: list[_Question]) -> list[Reply | Exception]:
        """Answers in one batch; one by one if that fails, so that each gets its own error."""
        start = perf_counter()
        for item in items:
            self.metrics.took("queue", start - item.asked)
        self.metrics.batches.observe(len(items))
        with self.metrics.stage("model"):
            try:
                return list(self._together(items))
            except Exception as error:
                if len(items) == 1:
                    return [error]
            return [reply for item in items for reply in self._answer_alone(item)]

    def _answer_alone(self, item: _Question) -> list[Reply | Exception]:
        if perf_counter() - item.asked > self.seconds:  # whoever asked was told so
            return [TimeoutError()]
        try:
            return list(self._together([item]))
        except Exception as error:
            return [error]

    def _together(self, items: list[_Question]) -> list[Reply]:
        with time_limit(self.seconds):
            found = self._encode(items)
            choices = [item.choices or [] for item in items]
            answers = self.vqa.answer(
                [found[item.digest].seen for item in items],
                [item.question for item in items],
                TOP,
                choices if self.vqa.kind == "choices" or self.vqa.ranks_choices else None,
            )
        return [
            Reply(answer, found[item.digest].notes)
            for item, answer in zip(items, answers, strict=True)
        ]

    def _encode(self, items: list[_Question]) -> dict[str, _Encoded]:
        """What the encoder makes of the images of some questions; of new ones in one batch."""
        found: dict[str, _Encoded] = {}
        new: dict[str, _Opened] = {}
        for item in items:
            known = item.image if isinstance(item.image, _Encoded) else self._known(item.digest)
            if known is not None:
                found[item.digest] = known
            elif isinstance(item.image, _Opened):
                new[item.digest] = item.image
        seen: list[Any] = self.vqa.encode([image.pixels for image in new.values()])
        for (digest, image), one in zip(new.items(), seen, strict=True):
            found[digest] = _Encoded(one, image.notes)
            self._keep(digest, found[digest])
        return found

    def _known(self, digest: str) -> _Encoded | None:
        with self._lock:
            if found := self._encoded.get(digest):
                self._encoded.move_to_end(digest)
            return found

    def _keep(self, digest: str, image: _Encoded) -> None:
        with self._lock:
            self._encoded[digest] = image
            self._bytes += image.seen.nbytes
            while self._bytes > CACHE_BYTES:
                self._bytes -= self._encoded.popitem(last=False)[1].seen.nbytes


def _nbytes(opened: Any) -> int:
    """Bytes of what `transform.open` made of an image, or of several."""
    if isinstance(opened, (list, tuple)):
        return sum(map(_nbytes, opened))
    if isinstance(opened, Image.Image):
        return BYTES_PER_PIXEL * opened.width * opened.height
    return int(opened.nbytes)
