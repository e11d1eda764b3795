"""Classification over a vocabulary of answers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from vlm.core.batch import Batch
from vlm.core.features import Features
from vlm.core.host import HostCopy
from vlm.fusion.perceptron import perceptron
from vlm.heads import losses
from vlm.heads.base import AnswerHead, Ranked
from vlm.heads.vocabulary import AnswerVocabulary

LOSSES: dict[str, losses.Loss] = {
    "bce": losses.soft_bce,
    "kl": losses.kl_divergence,
    "ce": losses.cross_entropy,
    "sampled_ce": losses.sampled_cross_entropy,
}


class VocabularyHead(AnswerHead):
    """Picks from a vocabulary: its output is a logit for each answer, (Q, A).

    Attributes:
        independent: each answer has a probability of its own, which need not sum to one, as with
            the loss "bce"; the other losses, and functions, give a distribution.
    """

    vocabulary: AnswerVocabulary
    independent: bool

    def __init__(self, in_dim: int, answers: Sequence[str]) -> None:
        super().__init__(in_dim)
        self.vocabulary = AnswerVocabulary(answers)
        self.encode_targets = self.vocabulary.encode

    def probabilities(self, output: Tensor) -> Tensor:
        """The probability of each answer, (Q, A)."""
        logits = output.float()
        return logits.sigmoid() if self.independent else logits.softmax(-1)

    def decode(self, output: Tensor, top_k: int) -> list[Ranked]:
        best = self.probabilities(output).topk(min(top_k, len(self.vocabulary)), dim=-1)
        answers = self.vocabulary.answers
        rows, values = (copy.tolist() for copy in HostCopy(best.indices, best.values).read())
        return [
            [(answers[i], p) for i, p in zip(*pair, strict=True)]
            for pair in zip(rows, values, strict=True)
        ]

    def evidence(self, output: Tensor, answers: Sequence[str]) -> Tensor:
        """The answers' logits."""
        numbers = self.vocabulary.indices(answers)
        columns = torch.tensor(numbers, dtype=torch.long, device=output.device)
        return output.gather(-1, columns[:, None]).squeeze(-1)


class Classification(VocabularyHead):
    """A perceptron from the joint vector to one score per answer.

    Args:
        in_dim: width of the joint features.
        answers: the vocabulary (`vlm.heads.count_answers` of the training questions); it must be
            given, which the command line does.
        hidden_dims: widths of the hidden layers; none makes it a linear classifier.
        dropout: share dropped after each hidden layer in training, in [0, 1).
        loss: "bce" against soft scores, "kl" against the annotators' shares, "ce" with the most
            frequent answer, "sampled_ce" with one drawn from the shares in training and the most
            frequent in evaluation (`vlm.heads.losses`); or a function of (logits (Q, A),
            `AnswerCounts`) that returns a value for each question (Q,). `config` keeps only the
            path of a function, such as "my_losses.focal": a head that is built from that answers,
            and has no loss.

    Raises:
        ValueError: a width that is not positive, no answers or one twice, an unknown loss.

    Example:
        >>> head = vlm.heads.Classification(in_dim=64, answers=["yes", "no", "red"])
        >>> logits = head(vlm.Features(torch.randn(2, 7, 64)), batch=None)
        >>> logits.shape
        torch.Size([2, 3])
        >>> [len(ranked) for ranked in head.decode(logits, top_k=2)]
        [2, 2]
    """

    def __init__(
        self,
        in_dim: int,
        answers: Sequence[str] = (),
        hidden_dims: Sequence[int] = (128,),
        dropout: float = 0.0,
        loss: Literal["bce", "kl", "ce", "sampled_ce"] | losses.Loss = "bce",
    ) -> None:
        super().__init__(in_dim, answers)
        self.independent = loss == "bce"
        self.train_loss = _function(loss)
        if callable(loss):
            self.arguments["loss"] = losses.path_of(loss)
        # A validation loss must not depend on a draw: checkpoints are chosen by it.
        self.evaluation_loss = losses.cross_entropy if loss == "sampled_ce" else self.train_loss
        self.layers = perceptron(in_dim, hidden_dims, len(self.vocabulary), dropout)

    def forward(self, fused: Features, batch: Batch) -> Tensor:
        """Logits (Q, A)."""
        return self.layers(fused.pooled)

    if TYPE_CHECKING:
        __call__ = forward

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        per_question = self.train_loss if self.training else self.evaluation_loss
        values = per_question(output, batch.targets)
        if values.shape != output.shape[:1]:
            raise ValueError(
                f"loss: got shape {tuple(values.shape)} from {self.arguments['loss']}; expected "
                f'{tuple(output.shape[:1])}, a value for each question (`reduction="none"`).'
            )
        return values.sum() / batch.total


def _function(loss: str | losses.Loss) -> losses.Loss:
    if isinstance(loss, str) and (loss in LOSSES or "." in loss):
        return LOSSES.get(loss) or partial(_refuse, loss)
    if callable(loss) and not isinstance(loss, nn.Module):
        return loss
    raise ValueError(
        f"loss: got {loss!r}; expected one of {', '.join(LOSSES)}, or a function. A module is not "
        "enough: a head built from its configuration would lack its weights."
    )


def _refuse(path: str, logits: Tensor, target: losses.AnswerCounts) -> Tensor:
    # Its path may come from a stranger's file, so nothing is imported.
    raise ValueError(
        f"loss: got {path!r}, the path of a function, from a stored configuration; expected the "
        f"function itself. Make the head with it (`loss={path}`) to train or to measure a loss."
    )
