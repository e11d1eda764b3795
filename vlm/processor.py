"""The one way from images, questions and answers to a batch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from vlm.core.batch import Batch
from vlm.core.choices import make_choices
from vlm.core.clean_text import are_clean, clean_text
from vlm.core.features import Seen
from vlm.core.padding import distinct
from vlm.heads.base import TargetEncoder
from vlm.image.regions import RegionTransform
from vlm.image.transform import ImageTransform
from vlm.text.tokenizer import Tokenizer


class Processor(NamedTuple):
    """Belongs to a model; loader workers, the demo and `answer` all use it. Holds no weights.

    Attributes:
        transform: brings an image to the image encoder's input.
        tokenizer: brings a question, or a choice, to the text encoder's input.
        encode_targets: brings the annotators' answers to the head's targets.
        takes_choices: whether the head reads the questions' choices.
        takes_pairs: whether the head reads which questions have answers that follow from one
            another.
    """

    transform: ImageTransform | RegionTransform
    tokenizer: Tokenizer
    encode_targets: TargetEncoder
    takes_choices: bool = False
    takes_pairs: bool = False

    def batch(
        self,
        images: Seen,
        image_index: Sequence[int] | Tensor,
        questions: Sequence[str],
        answers: Sequence[Sequence[str]] | None = None,
        ids: Sequence[str] | None = None,
        total: float | None = None,
        choices: Sequence[Sequence[str]] | None = None,
        image_lists: Tensor | None = None,
    ) -> Batch:
        """Put questions about U transformed images together; see `Batch`.

        Raises:
            ValueError: choices for a head that takes none; a text that is none, naming its id.
        """
        if choices is not None and not self.takes_choices:
            raise ValueError(
                "choices: got some, but this model's head takes none; leave them out, or ask a "
                "model trained with vlm.heads.MultipleChoice."
            )
        ids = [str(i) for i in range(len(questions))] if ids is None else list(ids)
        questions = _clean(questions, "question", ids)
        choices = _clean_lists(choices, "choice", ids)
        answers = _clean_lists(answers, "answer", ids)
        candidates = None if choices is None else make_choices(choices, self.tokenizer)
        words, mask = self.tokenizer(questions)
        texts, text_of = distinct(questions)
        text_index = None
        if len(texts) < len(questions):  # each once, from where it comes first
            first = dict(zip(reversed(text_of), reversed(range(len(text_of))), strict=True))
            rows = [first[text] for text in range(len(texts))]
            words, mask, text_index = words[rows], mask[rows], torch.tensor(text_of)
        return Batch(
            images=images,
            image_index=torch.as_tensor(image_index, dtype=torch.long),
            words=words,
            words_mask=mask,
            targets=None if answers is None else self.encode_targets(answers, choices),
            ids=ids,
            total=total or len(questions),
            choices=candidates,
            text_index=text_index,
            image_lists=image_lists,
        )


def _clean(texts: Sequence[str], kind: str, ids: Sequence[str]) -> Sequence[str]:
    if len(texts) == len(ids) and are_clean(texts):
        return texts
    return [_one_clean(text, kind, id_) for text, id_ in zip(texts, ids, strict=True)]


def _clean_lists(
    lists: Sequence[Sequence[str]] | None, kind: str, ids: Sequence[str]
) -> Sequence[Sequence[str]] | None:
    if lists is None:
        return None
    if len(lists) == len(ids) and are_clean(chain.from_iterable(lists)):
        return lists
    return [
        [_one_clean(text, kind, question_id) for text in given or ()]
        for given, question_id in zip(lists, ids, strict=True)
    ]


def _one_clean(text: str, kind: str, question_id: str) -> str:
    try:
        return clean_text(text)
    except ValueError as error:
        raise ValueError(f"{kind} (id {question_id!r}): {error}.") from error
