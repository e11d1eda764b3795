"""Ask a trained model: an image and a question in, answers out. No training code."""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlm.adapters.folder import read_image_text_to_text
from vlm.adapters.hub import is_adapted, is_whole, locate, name_of, read_adapted, read_stored
from vlm.adapters.image_text_to_text import ImageTextToText
from vlm.asking import (
    Answer,
    Asking,
    opened,
)
from vlm.checkpoint.checkpoint import load_model
from vlm.checkpoint.sharing import write_shared
from vlm.core.answer_warnings import choice_warnings, missing_warnings, question_warnings
from vlm.core.calibration import ABOUT, Calibration
from vlm.core.compat import tree_flatten, tree_map_only
from vlm.core.rust_panic import AnswerError, broken_off
from vlm.fusion.base import Kept
from vlm.heads.base import AnswerKind, Ranked
from vlm.heads.calibration import decode
from vlm.heads.multi_task import answering
from vlm.image.regions import RegionTransform
from vlm.image.transform import ImageTransform
from vlm.model import VQAModel

PLACEHOLDER = "unknown"
"""What the tokenizer gets where there is no question; the features are masked."""


@dataclass(frozen=True)
class Seen:
    """An image that was encoded and prepared: questions about it need neither again.

    Attributes:
        images: (1, ...) the model's input, as its transform makes it; of several images of a
            question (K, ...).
        kept: what the image encoder and the fusion made of it.
    """

    images: Any
    kept: Kept

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors; those of `kept` with a row for every image or list of images."""
        return [
            leaf for leaf in tree_flatten((self.images, self.kept.prepared))[0] if leaf is not None
        ]

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def split(self, lists: Sequence[Sequence[int]]) -> list[Seen]:
        """Each of several images by itself, in memory of its own; `lists` are the rows of
        `images` of each."""

        def part(number: int, rows: Sequence[int]) -> Seen:
            images = tree_map_only(Tensor, lambda t: t[list(rows)], self.images)
            prepared = tree_map_only(
                Tensor, lambda t: t[number : number + 1].clone(), self.kept.prepared
            )
            return Seen(images, replace(self.kept, prepared=prepared, images=1))

        return [part(number, rows) for number, rows in enumerate(lists)]

    @property
    def shapes(self) -> tuple[torch.Size, ...]:
        """Of the tensors without their rows: those with the same ones are joined."""
        return tuple(tensor.shape[1:] for tensor in self.tensors)

    @staticmethod
    def join(seen: Sequence[Seen]) -> Seen:
        """Several images with the same `shapes` as one batch, in their order."""
        first = seen[0]
        if len(seen) == 1:
            return first
        columns = zip(*(one.tensors for one in seen), strict=True)
        joined = iter([torch.cat(column) for column in columns])
        images, prepared = tree_map_only(
            Tensor, lambda _: next(joined), (first.images, first.kept.prepared)
        )
        count = sum(one.kept.images for one in seen)
        return Seen(images, replace(first.kept, prepared=prepared, images=count))


def load(
    path: str | Path,
    device: str | torch.device = "cpu",
    trust: bool = False,
    revision: str | None = None,
) -> VQA:
    """Load a model of vlm's parts: what `vlm.load`, whose arguments and errors these are, loads
    but an export, or an image-text-to-text model of the hub."""
    found = locate(path, revision)
    if is_adapted(found):
        model, about = read_adapted(found)
    else:
        checkpoint = read_stored(found, trust)
        model, about = load_model(checkpoint, trust), checkpoint.about
    return VQA(model.to(device), about)


def load_any(
    path: str | Path,
    device: str | torch.device = "cpu",
    trust: bool = False,
    revision: str | None = None,
    prompt: str | None = None,
) -> VQA | ImageTextToText:
    """Load anything that `vlm.load`, whose arguments and errors these are, loads but an export."""
    found = locate(path, revision)
    if is_whole(found):
        return read_image_text_to_text(found, name_of(found), device, prompt)
    if prompt is not None:
        raise ValueError(
            f"prompt: got {prompt!r:.80}, but {path} reads the question alone; leave it out."
        )
    return load(found, device, trust)


class VQA(Asking):
    """A trained model that answers questions about images.

    Args:
        model: model in evaluation mode.
        about: facts about the run that made the model.

    Attributes:
        calibration: how the model's probabilities were calibrated; None for a model that was not.

    Example:
        >>> vqa = vlm.load("my_model")
        >>> vqa.answer("photo.png", "what color is it?").text in ("red", "blue")
        True
        >>> answers = vqa.answer(["photo.png"] * 2, ["what color is it?", "is it what?"])
        >>> len(answers)
        2
    """

    seen_type = Seen
    answers_one_side = True

    def __init__(self, model: VQAModel, about: dict[str, Any] | None = None) -> None:
        self.model, self.about = model.eval(), about or {}
        self.transform: ImageTransform | RegionTransform = model.image_encoder.transform
        self.calibration = Calibration.of(self.about)
        self.max_images = model.fusion.max_images
        self.draws = answering(model.head).draws

    def __repr__(self) -> str:
        return f"VQA({self.model}, on {self._device})"

    def save(self, folder: str | Path) -> Path:
        """Write the model to a folder that others load with `vlm.load(folder)`; see `write_shared`.

        Args:
            folder: new or empty.

        Returns:
            The folder.
        """
        return write_shared(self.model, self.about, folder)

    @property
    def kind(self) -> AnswerKind:
        head = answering(self.model.head)
        if head.takes_choices:
            return "choices"
        return "text" if head.vocabulary is None else "vocabulary"

    @torch.no_grad()
    def encode(self, images: Sequence[Any]) -> list[Seen]:
        if not images:
            return []
        transform: Any = self.transform
        device = self._device
        single, lists = _rows(images)
        batch = tree_map_only(Tensor, lambda tensor: tensor.to(device), transform.stack(single))
        index = _padded(lists)
        index = None if index is None else index.to(device)
        kept = self.model.fusion.keep(self.model.image_encoder(batch), image_lists=index)
        seen = Seen(batch, kept)
        return seen.split(lists) if len(images) > 1 else [seen]

    @broken_off
    @torch.inference_mode()
    def _answer(
        self,
        given: list[Any],
        questions: list[str | None],
        top_k: int,
        choices: list[list[str]] | None,
    ) -> list[Answer]:
        if isinstance(given[0], Seen) and len({seen.shapes for seen in given}) > 1:
            return self._answer_by_shape(given, questions, top_k, choices)
        processor = self.model.asking_processor
        transform: Any = processor.transform
        index = [0] * len(questions) if len(given) == 1 else list(range(len(questions)))
        seen = None
        if isinstance(given[0], Seen):
            if any(item.kept.fusion is not self.model.fusion for item in given):
                raise ValueError(
                    "image: got images that another model has seen; expected those of this model's "
                    "`see`."
                )
            different = {id(item): item for item in given}
            rows = {key: row for row, key in enumerate(different)}
            index = [rows[id(given[i])] for i in index]
            seen = Seen.join(list(different.values()))
        lists = None
        if seen is None:
            single, rows_of = _rows(opened(transform, given, may_miss=True))
            images, lists = transform.stack(single), _padded(rows_of)
        else:
            images = seen.images
        texts = [PLACEHOLDER if text is None else text for text in questions]
        batch = processor.batch(images, index, texts, choices=choices, image_lists=lists)
        no_image = [given[0 if len(given) == 1 else row] is None for row in range(len(questions))]
        no_question = [text is None for text in questions]
        batch = batch._replace(
            no_image=torch.tensor(no_image) if any(no_image) else None,
            no_question=torch.tensor(no_question) if any(no_question) else None,
        ).to(self._device)
        output = self.model(batch, None if seen is None else seen.kept)
        _check_finite(value.isnan().any() for value in tree_flatten(output)[0] if _is_float(value))
        ranked = decode(self.model.head, output, top_k, self.calibration)
        _check_finite(not math.isfinite(share) for best in ranked for _, share in best)
        candidates = choices or [[] for _ in questions]
        tokenizer, in_order = processor.tokenizer, self.model.text_encoder.in_order
        head = answering(self.model.head)
        trained = self.about.get("augment", self.about.get("training", {}).get("data.augment"))
        sides = list(zip(no_image, no_question, strict=True))
        warnings = [
            (
                *missing_warnings(*missing, trained),
                *([] if question is None else question_warnings(tokenizer, question)),
                *choice_warnings(tokenizer, texts, in_order, head.choice_ids),
                *self._cut(best),
            )
            for best, question, texts, missing in zip(
                ranked, questions, candidates, sides, strict=True
            )
        ]
        guesses = (text is not None and tokenizer.misses(text) for text in questions)
        known = self.calibration is not None
        return [
            Answer(*r[0], r, w, g, known) for r, w, g in zip(ranked, warnings, guesses, strict=True)
        ]

    def _answer_by_shape(
        self,
        given: list[Any],
        questions: list[str | None],
        top_k: int,
        choices: list[list[str]] | None,
    ) -> list[Answer]:
        """`_answer` about images from `see` that cannot be one batch: they have different numbers
        of regions, or are lists of different lengths."""
        alike: defaultdict[Any, list[int]] = defaultdict(list)
        for row, seen in enumerate(given):
            alike[seen.shapes].append(row)
        found: dict[int, Answer] = {}
        for rows in alike.values():
            asked = [questions[row] for row in rows]
            lists = None if choices is None else [choices[row] for row in rows]
            answers = self._answer([given[row] for row in rows], asked, top_k, lists)
            found.update(zip(rows, answers, strict=True))
        return [found[row] for row in range(len(questions))]

    def _cut(self, ranked: Ranked) -> list[str]:
        tokens = answering(self.model.head).truncated_at(ranked[0][0])
        return [f"The answer never ended: it was cut at {tokens} tokens."] if tokens else []

    @cached_property
    def digest(self) -> str:
        made_of = [self.model.config, self.about.get(ABOUT)]
        digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode())
        for value in self.model.state_dict().values():
            digest.update(value.detach().cpu().float().numpy().tobytes())
        return digest.hexdigest()

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


def _rows(images: Sequence[Any]) -> tuple[list[Any], list[list[int]]]:
    """The single images of some images and lists of images, and the rows of each among them."""
    single: list[Any] = []
    rows = []
    for image in images:
        own = list(image) if isinstance(image, list) else [image]
        rows.append(list(range(len(single), len(single) + len(own))))
        single += own
    return single, rows


def _padded(lists: Sequence[Sequence[int]]) -> Tensor | None:
    """Lists of rows as `Batch.image_lists`; None if each has one."""
    most = max(map(len, lists))
    if most == 1:
        return None
    return torch.tensor([[*rows, *[-1] * (most - len(rows))] for rows in lists])


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _check_finite(broken: Iterable[Any]) -> None:
    if any(broken):
        raise AnswerError(
            "the model's answer is not finite: its weights are too large for its own layers. "
            "Use another checkpoint or model."
        )
