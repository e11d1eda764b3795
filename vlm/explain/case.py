"""One image, one question and one answer, in the model's own terms: hide parts, follow back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from threading import get_ident
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vlm.core.answer_warnings import question_warnings
from vlm.core.batch import Batch
from vlm.core.calibration import Calibration
from vlm.core.choices import Choices, make_choices
from vlm.core.clean_text import clean_text
from vlm.core.compat import tree_map_only
from vlm.core.features import Features
from vlm.fusion.attention import SETTING
from vlm.fusion.base import Kept
from vlm.heads.base import Ranked
from vlm.heads.calibration import decode
from vlm.heads.multi_task import answering
from vlm.image.base import PixelEncoder, grid_boxes
from vlm.image.canvas import CanvasTransform
from vlm.image.regions import RegionTransform
from vlm.model import VQAModel

IMAGES_AT_ONCE = 64
PAIRS_AT_ONCE = 512
"""Of images with questions: their joint tokens fill memory."""
PROMPTS_AT_ONCE = 16
"""The same, where a language model reads both from the beginning."""
TEXTS = 5
"""Most answers of a head that writes text."""


class NeverEnded(ValueError):
    """The model's own answer was cut, so there is none to explain."""

    def __init__(self, answer: str) -> None:
        super().__init__(
            f"answer: got none, and the model's own never ended ({answer!r:.80}); expected one to "
            f"explain."
        )


class Cells(NamedTuple):
    """The parts of the image that an explanation speaks of.

    Attributes:
        boxes: (P, 4) in [0, 1]: x0, y0, x1, y1 in the model's input.
        grid: (rows, columns), row by row; None for regions.
    """

    boxes: Tensor
    grid: tuple[int, int] | None


class Case:
    """A question about an image, and the answer that is to be explained.

    An image's places are its pixels, (H, W); those of region features are its regions, (N,).

    Args:
        model: model in evaluation mode.
        images: (1, C, H, W) uint8 or `Features` of regions, as the encoder's transform makes them.
        image_size: (width, height) of the photo; (1, 1) for region features.
        question: the question, as it was asked.
        answer: answer to explain; None for the model's own.
        choices: choices of a multiple-choice question.
        calibration: what the model's probabilities are worth; None leaves them as they are.

    Attributes:
        ids: (L,) int64, the question's tokens.
        asked: those of the question itself, and not of a prompt around it.
        tokens: their texts.
        per_word: whether a map for each word is worth its time.
        ranks_all: whether `ranked` begins with the model's own answer.
    """

    per_word = True
    ranks_all = True

    def __init__(
        self,
        model: VQAModel,
        images: Any,
        image_size: tuple[int, int],
        question: str,
        answer: str | None = None,
        choices: Sequence[str] | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        question = clean_text(question)  # as the batch has it: `tokens` are of the same text
        self.model, self.image_size, self.question = model, image_size, question
        self.device = next(model.parameters()).device
        lists = None if choices is None else [choices]
        batch = self._moved(model.processor.batch(images, [0], [question], choices=lists))
        self.images = batch.images
        self.ids = batch.words[0][batch.words_mask[0]]
        self.asked = model.processor.tokenizer.own(question)
        self.tokens = model.processor.tokenizer.tokens(question)[self.asked]
        # A language model would read each pair of image and question from the beginning.
        self.per_word = not answering(model.head).reads_prompt
        self.choices = None if choices is None else [clean_text(text) for text in choices]
        self.calibration, self._batch = calibration, batch
        if answer is None:
            answer = self.ranked[0][0]
            if answering(model.head).truncated_at(answer):
                raise NeverEnded(answer)
        self.answer = clean_text(answer)

    @cached_property
    def ranked(self) -> Ranked:
        """The model's answers with their probabilities, best first: all that it can give, or its
        best ones where it writes text."""
        vocabulary = answering(self.model.head).vocabulary
        count = TEXTS if vocabulary is None else len(vocabulary)
        count = count if self.choices is None else len(self.choices)
        with torch.inference_mode():
            output = self.model(self._batch)
            return decode(self.model.head, output, count, self.calibration)[0]

    @property
    def warnings(self) -> list[str]:
        """Reasons to doubt the answer, one sentence each."""
        return question_warnings(self.model.text_encoder.tokenizer, self.question)

    @property
    def is_guess(self) -> bool:
        """Whether the question is beyond the model's words."""
        return self.model.text_encoder.tokenizer.misses(self.question)

    def _moved(self, value: Any) -> Any:
        return tree_map_only(Tensor, lambda tensor: tensor.to(self.device), value)

    # The image.

    @property
    def place(self) -> tuple[int, ...]:
        """(H, W) of the input's pixels, or (N,) of the regions."""
        if isinstance(self.images, Features):
            return tuple(self.images.mask.shape[1:])
        return tuple(self.images.shape[2:])

    def cells(self, refine: int = 1) -> Cells:
        """The encoder's own cells, each cut into `refine` x `refine`; regions are never cut."""
        encoder = self.model.image_encoder
        if isinstance(self.images, Features):
            assert self.images.boxes is not None
            return Cells(self.images.boxes[0], None)
        assert isinstance(encoder, PixelEncoder)
        # A cell is a pixel at least.
        rows, columns = (
            min(n * refine, side) for n, side in zip(encoder.grid, self.place, strict=True)
        )
        return Cells(grid_boxes(rows, columns, self.device), (rows, columns))

    def on_cells(self, values: Tensor) -> Tensor:
        """Values (..., N) of the encoder's tokens -> (..., P) of `cells()`; where tokens are no
        cells, the value of each is divided over the cells that its box covers."""
        return values if self._shares is None else values @ self._shares.to(values.dtype)

    @cached_property
    def _shares(self) -> Tensor | None:
        """(N, P): the share of each token that lies in each cell; None if tokens are cells."""
        if isinstance(self.images, Features):
            return None
        with torch.no_grad():
            boxes, cells = self.model.image_encoder(self.images).boxes, self.cells().boxes
        assert boxes is not None
        boxes = boxes[0]
        if boxes.shape == cells.shape and torch.allclose(boxes, cells):
            return None
        if isinstance(self.model.image_encoder.transform, CanvasTransform):
            inside = self.images[0, 3] > 0  # what the boxes are in
            size = [inside.any(axis).float().mean() for axis in (0, 1)]
            boxes = boxes * torch.stack(size).repeat(2)
        low = torch.maximum(boxes[:, None, :2], cells[:, :2])
        high = torch.minimum(boxes[:, None, 2:], cells[:, 2:])
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1).clamp(min=1e-9)
        return (high - low).clamp(min=0).prod(2) / area[:, None]

    def places(self, boxes: Tensor) -> Tensor:
        """Which places lie in each box of the input: (P, 4) -> (P, *place) bool.

        Boxes of regions are the regions, in their order.
        """
        if isinstance(self.images, Features):
            return torch.eye(len(boxes), dtype=torch.bool, device=self.device)
        height, width = self.place
        y = (torch.arange(height, device=self.device) + 0.5) / height
        x = (torch.arange(width, device=self.device) + 0.5) / width
        x0, y0, x1, y1 = boxes.T[..., None]  # (P, 1) each
        return ((y0 <= y) & (y < y1))[:, :, None] & ((x0 <= x) & (x < x1))[:, None]

    def nothing(self) -> Tensor:
        """The image that shows nothing, as a place is filled when it is hidden.

        Its colour is the median of the photo's, which for an object on a plain ground is the
        ground: painting it grey would be a new object. Regions become zeros.
        """
        if isinstance(self.images, Features):
            return torch.zeros_like(self.images.tokens)
        pixels = self.images[0].flatten(1)  # (C, H * W)
        shown = pixels[:3] if len(pixels) == 3 else pixels[:3, pixels[3] > 0]
        ground = self.images.clone()
        ground[0, :3] = shown.median(1).values[:, None, None]
        return ground

    def hide(self, hidden: Tensor) -> Any:
        """The input without some of its places: (A, *place) bool -> A images."""
        if isinstance(self.images, Features):
            rows = self.repeated(len(hidden))
            return rows._replace(mask=rows.mask & ~hidden)
        return torch.where(hidden[:, None], self.nothing(), self.images)

    def in_photo(self, boxes: Tensor) -> Tensor:
        """Boxes of the input, (P, 4) in [0, 1], in the photo's pixels."""
        transform = self.model.image_encoder.transform
        if isinstance(transform, RegionTransform):
            return boxes
        x0, y0, x1, y1 = transform.box(self.image_size)
        size = boxes.new_tensor([x1 - x0, y1 - y0]).repeat(2)
        return boxes * size + boxes.new_tensor([x0, y0]).repeat(2)

    # The question.

    def without_each_word(self) -> Tensor:
        """(1 + L, L) bool: the whole question, then the question without each of its L words."""
        words = len(self.tokens)
        whole = torch.ones(1, words, dtype=torch.bool, device=self.device)
        return torch.cat((whole, ~torch.eye(words, dtype=torch.bool, device=self.device)))

    def questions(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        """The question with some of its words left out: (B, L) bool -> ids and mask (B, L'), with
        all of a prompt around it."""
        if kept.shape[1] < len(self.ids):
            words, kept = kept, kept.new_ones(len(kept), len(self.ids))
            kept[:, self.asked] = words
        length = max(int(kept.sum(1).max()), 1) if kept.numel() else 1
        ids = torch.full((len(kept), length), self.model.text_encoder.tokenizer.pad_id)
        ids = ids.to(self.device)
        mask = torch.arange(length, device=self.device) < kept.sum(1, keepdim=True)
        ids[mask] = self.ids.expand_as(kept)[kept]
        return ids, mask

    def encode(self, kept: Tensor, padding: int = 0) -> tuple[Features, Features, Tensor]:
        """Features of the image and of variants (B, L) of the question, with the words' mask.

        They can be differentiated though no parameter may be trainable. `padding` is added to the
        questions.
        """
        model = self.model
        ids, mask = self.questions(kept)
        ids = nn.functional.pad(ids, (0, padding), value=model.text_encoder.tokenizer.pad_id)
        mask = nn.functional.pad(mask, (0, padding))
        if torch.is_grad_enabled():
            table, vectors = self.embed(ids, mask)
            with embedded(table, vectors.clone().requires_grad_()):
                text = model.text_encoder(ids, mask)
        else:
            text = model.text_encoder(ids, mask)
        rows = torch.zeros(len(kept), dtype=torch.long, device=self.device)
        return model.image_encoder(self.images).take(rows), text, mask

    # The answer.

    def evidence_of(
        self,
        image: Features | Kept,
        text: Features,
        mask: Tensor,
        image_index: Tensor | None = None,
        ids: Tensor | None = None,
    ) -> Tensor:
        """Evidence (Q,) for the answer, given the encoders' features of Q questions, and for a
        head that reads them the `ids` of their words."""
        rows = len(mask)
        tokenizer = self.model.text_encoder.tokenizer
        choices: Choices | None = None
        if self.choices is not None:
            choices = self._moved(make_choices([self.choices] * rows, tokenizer))
        index = torch.arange(rows, device=self.device)
        words = mask.new_zeros(mask.shape, dtype=torch.long) if ids is None else ids
        batch = Batch(self.images, index, words, mask, None, [""] * rows, rows, choices)
        batch = batch._replace(question=text)
        fused = self.model.fusion(image, text, image_index=image_index)
        output = self.model.head(fused, self.model.with_choices(batch))
        return self.model.head.evidence(output, [self.answer] * rows)

    @torch.inference_mode()
    def evidence(self, hidden: Tensor | None = None, kept: Tensor | None = None) -> Tensor:
        """Evidence (A, B) for the answer without parts of the image and of the question.

        Each image and each question is encoded, and each image prepared, once; all pairs are fused.

        Args:
            hidden: (A, *place) bool, True = painted over; None hides nothing, A = 1.
            kept: (B, L) bool, True = a word that is left; None keeps all, B = 1.
        """
        if hidden is None:
            hidden = torch.zeros(1, *self.place, dtype=torch.bool, device=self.device)
        if kept is None:
            kept = torch.ones(1, len(self.tokens), dtype=torch.bool, device=self.device)
        parts = hidden.split(IMAGES_AT_ONCE)
        image = self.model.fusion.keep(
            _joined([self.model.image_encoder(self.hide(part)) for part in parts])
        )
        ids, mask = self.questions(kept)
        text = self.model.text_encoder(ids, mask)
        pairs = torch.arange(len(hidden) * len(kept), device=self.device)
        found = []
        at_once = PROMPTS_AT_ONCE if answering(self.model.head).reads_prompt else PAIRS_AT_ONCE
        for part in pairs.split(at_once):
            a, b = part // len(kept), part % len(kept)
            found.append(self.evidence_of(image, text.take(b), mask[b], a, ids[b]))
        return torch.cat(found).view(len(hidden), len(kept)).float()

    # Gradients.

    def repeated(self, rows: int) -> Any:
        """The model's input, `rows` times."""
        if isinstance(self.images, Features):
            return self.images.take(torch.zeros(rows, dtype=torch.long, device=self.device))
        return self.images.expand(rows, -1, -1, -1)

    def embed(self, ids: Tensor, mask: Tensor) -> tuple[nn.Embedding, Tensor]:
        """The table in which the text encoder looks its ids up, and what it finds (B, L, E)."""
        encoder = self.model.text_encoder
        found: list[tuple[nn.Embedding, Tensor]] = []

        def note(module: nn.Embedding, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if inputs[0].shape == ids.shape and torch.equal(inputs[0], ids):
                found.append((module, output))

        tables = [m for m in encoder.modules() if isinstance(m, nn.Embedding)]
        hooks = [table.register_forward_hook(_of_this_thread(note)) for table in tables]
        try:
            with torch.no_grad():
                encoder(ids, mask)
        finally:
            for hook in hooks:
                hook.remove()
        if not found:
            raise ValueError(
                f"method: {type(encoder).__name__} looks its words up in no nn.Embedding, so no "
                f"gradient leads to them; choose occlusion or attention."
            )
        return found[0]


def _joined(batches: Sequence[Features]) -> Features:
    """Several batches as one."""
    tokens, mask, pooled, boxes = zip(*batches, strict=True)
    joined = None if boxes[0] is None else torch.cat(boxes)
    return Features(torch.cat(tokens), torch.cat(mask), torch.cat(pooled), joined)


@contextmanager
def embedded(table: nn.Embedding, vectors: Tensor) -> Iterator[None]:
    """Inside, `table` gives `vectors` (B, L, E) for whatever ids this thread looks up."""
    hook = table.register_forward_hook(_of_this_thread(lambda *_: vectors))
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def gradients() -> Iterator[None]:
    """Gradients are on inside, also through recurrent networks in evaluation mode on a GPU."""
    with SETTING, torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        yield


def _of_this_thread(hook: Callable[..., Any]) -> Callable[..., Any]:
    """The hook for this thread's forward passes only: another may be using the same model."""
    thread = get_ident()
    return lambda *given: hook(*given) if get_ident() == thread else None
