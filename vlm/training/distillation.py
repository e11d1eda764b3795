"""Learning from the predictions of a trained model (Hinton et al. 2015, arXiv 1503.02531)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from vlm.core.batch import Batch
from vlm.core.errors import ConfigError
from vlm.core.validation import check_probability, counted
from vlm.heads.auxiliary import Sides
from vlm.heads.base import AnswerHead
from vlm.heads.classification import VocabularyHead
from vlm.heads.learned_mixin import LearnedMixin
from vlm.heads.losses import distillation, log_odds
from vlm.heads.multi_task import MultiTask, answering
from vlm.inference import VQA, load
from vlm.processor import Processor


@dataclass(frozen=True)
class Distillation:
    """A teacher, whose predictions the model learns in addition to the answers.

    The loss becomes (1 - weight) times the head's own plus weight times
    `vlm.heads.losses.distillation` from the teacher. Both models need a vocabulary of answers; the
    answers that both know are compared, by their text. The teacher sees the same augmented image
    and question, through its own transform and tokenizer. It gets both sides even if `data.augment`
    leaves one out, but not what `data.control` removes. If its images have another size, a crop or
    an erased rectangle may lie elsewhere in them. The teacher is frozen and not in the checkpoint.

    Args:
        teacher: run, checkpoint or shared model of the teacher, as for `vlm.load`.
        weight: share of the teacher in the loss, in (0, 1].
        temperature: positive number that softens both predictions; 1 does not change them.

    Raises:
        ValueError: a weight or temperature out of range.

    Example:
        >>> vlm.training.Distillation("runs/scenes/RUN", weight=0.7)
        Distillation(teacher='runs/scenes/RUN', weight=0.7, temperature=2.0)
    """

    teacher: str
    weight: float = 0.5
    temperature: float = 2.0

    def __post_init__(self) -> None:
        check_probability(**{"distillation.weight": self.weight})
        if not isinstance(self.temperature, (int, float)) or not 0 < self.temperature < math.inf:
            raise ValueError(
                f"distillation.temperature: got {self.temperature!r}; expected a positive number."
            )


class Teacher:
    """A trained model beside one that learns from it. No module, so no state dict has its weights.

    Args:
        distillation: where it is and how it teaches.
        head: head that learns from it.

    Raises:
        ConfigError: a head without a vocabulary, or fewer than two answers that both know.
        CheckpointError, OSError: a teacher that cannot be loaded.
    """

    def __init__(self, distillation: Distillation, head: AnswerHead) -> None:
        self.distillation, self.head = distillation, head
        self.vqa: VQA = load(distillation.teacher)
        self.vqa.model.requires_grad_(False)
        theirs = _vocabulary(self.vqa.model.head, f"the teacher {distillation.teacher}")
        own = _vocabulary(head, "the head")
        if isinstance(answering(head), LearnedMixin):
            raise ConfigError(
                "model.distillation: the head is a LearnedMixin, whose training has a mixture and "
                "no prediction of its own; expected vlm.heads.Classification."
            )
        numbers = {answer: number for number, answer in enumerate(theirs)}
        self.shared = [answer for answer in own if answer in numbers]
        self.missing = [answer for answer in own if answer not in numbers]
        self.unused = len(theirs) - len(self.shared)
        if len(self.shared) < 2:
            raise ConfigError(
                f"model.distillation.teacher: {distillation.teacher} knows "
                f"{counted(len(self.shared), 'answer')} of the {len(own):,} to learn "
                f"({_some(own)}), and {self.unused:,} others ({_some(theirs)}); expected two or "
                "more in common, to the letter."
            )
        places = {answer: number for number, answer in enumerate(own)}
        self._own = torch.tensor([places[answer] for answer in self.shared])
        self._theirs = torch.tensor([numbers[answer] for answer in self.shared])

    def __str__(self) -> str:
        text = (
            f"Teacher {self.distillation.teacher}: knows {len(self.shared):,} of the "
            f"{counted(len(self.shared) + len(self.missing), 'answer')} to learn"
        )
        text += f", not {_some(self.missing)}" if self.missing else ""
        return f"{text}; {self.unused:,} of its own are left out."

    @property
    def processor(self) -> Processor:
        """What makes its batches."""
        return self.vqa.model.asking_processor

    @cached_property
    def digest(self) -> str:
        """SHA-256 of its configuration and weights."""
        return self.vqa.digest

    def to(self, device: torch.device) -> None:
        """Move it to a device."""
        self.vqa.model.to(device)
        self._own, self._theirs = self._own.to(device), self._theirs.to(device)

    def loss(self, output: Any, batch: Batch) -> Tensor:
        """Scalar: the divergence from its predictions, summed over a batch's questions and divided
        by `batch.total`.

        Args:
            output: output of the head that learns.
            batch: has the teacher's own batch of the same questions in `teacher`.
        """
        assert batch.teacher is not None
        with torch.no_grad():
            known = _logits(self.vqa.model.head, self.vqa.model(batch.teacher))
        learner: Any = answering(self.head)  # a `VocabularyHead`, as was checked
        teacher: Any = answering(self.vqa.model.head)
        if learner.independent and not teacher.independent:
            known = log_odds(known)
        values = distillation(
            _logits(self.head, output)[:, self._own],
            known[:, self._theirs],
            self.distillation.temperature,
            learner.independent,
        )
        return values.sum() / batch.total


def _vocabulary(head: AnswerHead, whose: str) -> Sequence[str]:
    found = answering(head)
    if isinstance(found, VocabularyHead):
        return found.vocabulary.answers
    raise ConfigError(
        f"model.distillation: {whose} is a {type(found).__name__}; expected a head that scores a "
        "vocabulary of answers, such as vlm.heads.Classification."
    )


def _logits(head: AnswerHead, output: Any) -> Tensor:
    own: Any = output[head.answers_by] if isinstance(head, MultiTask) else output
    logits: Tensor = own.logits if isinstance(own, Sides) else own
    return logits


def _some(answers: Sequence[str]) -> str:
    shown = ", ".join(f"{answer!r:.40}" for answer in answers[:3])
    return f"{shown} and {len(answers) - 3:,} more" if len(answers) > 3 else shown
