"""Classification over a vocabulary of answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from vlm.core.batch import Batch
from vlm.core.features import Features
from vlm.core.host import HostCopy
from vlm.core.validation import check_weight, did_you_mean, nearest
from vlm.fusion.perceptron import perceptron
from vlm.heads import losses
from vlm.heads.base import AnswerHead, Ranked
from vlm.heads.vocabulary import AnswerVocabulary

LOSSES: dict[str, losses.Loss] = {
    "bce": losses.soft_bce,
    "focal": losses.focal,
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
        # By scores: many answers may have a probability that rounds to 1.
        best = output.float().topk(min(top_k, len(self.vocabulary)), dim=-1).indices
        shares = self.probabilities(output).gather(-1, best)
        answers = self.vocabulary.answers
        rows, values = (copy.tolist() for copy in HostCopy(best, shares).read())
        return [
            [(answers[i], p) for i, p in zip(*pair, strict=True)]
            for pair in zip(rows, values, strict=True)
        ]

    def evidence(self, output: Tensor, answers: Sequence[str]) -> Tensor:
        """The answers' logits."""
        if len(answers) != len(output):
            raise ValueError(
                f"answers: got {len(answers)} for {len(output)} questions; expected one for each."
            )
        numbers = self.vocabulary.indices(answers)
        columns = torch.tensor(numbers, dtype=torch.long, device=output.device)
        return output.gather(-1, columns[:, None]).squeeze(-1)


class Classification(VocabularyHead):
    """A perceptron from the joint vector to one score per answer.

    Args:
        in_dim: width of the joint features.
        answers: the vocabulary (`vlm.heads.count_answers` of the training questions); required, but
            the command line fills it in.
        hidden_dims: widths of the hidden layers; without any, the classifier is linear.
        dropout: fraction dropped after each hidden layer in training, in [0, 1).
        loss: "bce" against soft scores, "focal" the same with less weight on easy answers, "kl"
            against the annotators' shares, "ce" with the most frequent answer, "sampled_ce" with an
            answer drawn from the shares in training and the most frequent one in evaluation
            (`vlm.heads.losses`); or a function of (logits (Q, A), `AnswerCounts`) that returns a
            value for each question (Q,). `config` keeps only the path of a function, such as
            "my_losses.hinge": a head that is built from this path can answer, but has no loss.
        consistency: weight, at least 0, of the disagreement between questions whose answers follow
            from one another (`Batch.pairs`). In training, the symmetric KL divergence of the two
            predictions of each pair (`vlm.heads.losses.disagreement`) is added to the loss. For a
            contradiction, yes and no of one question are exchanged, so the divergence is 0 if
            p(yes) of one is p(no) of the other.
        opposites: the words for "yes" and "no" in the vocabulary; None if no questions contradict
            one another.
        label_smoothing: share in [0, 1) of each target that is spread over the answers in training,
            but not in evaluation (`vlm.heads.losses.smoothed`).
        class_weights: weights of the terms of some answers in the training loss, such as {"yes":
            0.5}; 1 for all others. `vlm.heads.losses.balanced_weights` computes them.
        gamma: exponent of the loss "focal": 0, or at least 1, because between them gradients have
            no bound.

    Raises:
        ValueError: a width that is not positive, no answers or one twice, an unknown loss, a
            negative weight, opposites or weighted answers that the vocabulary lacks, smoothing or
            weights beside a loss of your own.

    Example:
        >>> head = vlm.heads.Classification(in_dim=64, answers=["yes", "no", "red"])
        >>> logits = head(vlm.Features(torch.randn(2, 7, 64)), batch=None)
        >>> logits.shape
        torch.Size([2, 3])
        >>> [len(ranked) for ranked in head.decode(logits, top_k=2)]
        [2, 2]
    """

    exchanged: Tensor | None
    class_weights: Tensor | None

    def __init__(
        self,
        in_dim: int,
        answers: Sequence[str] = (),
        hidden_dims: Sequence[int] = (128,),
        dropout: float = 0.0,
        loss: Literal["bce", "focal", "kl", "ce", "sampled_ce"] | losses.Loss = "bce",
        consistency: float = 0.0,
        opposites: tuple[str, str] | None = ("yes", "no"),
        label_smoothing: float = 0.0,
        class_weights: dict[str, float] | None = None,
        gamma: float = 2.0,
    ) -> None:
        super().__init__(in_dim, answers)
        self.independent = loss in ("bce", "focal")
        self.train_loss = _function(loss)
        if not isinstance(gamma, (int, float)) or not (gamma == 0 or 1 <= gamma < math.inf):
            raise ValueError(f"gamma: got {gamma!r}; expected 0, or 1 and more.")
        if loss == "focal":
            self.train_loss = partial(losses.focal, gamma=gamma)
        if not isinstance(label_smoothing, (int, float)) or not 0 <= label_smoothing < 1:
            raise ValueError(
                f"label_smoothing: got {label_smoothing!r}; expected a share in [0, 1)."
            )
        if (label_smoothing or class_weights) and loss not in LOSSES:
            raise ValueError(
                "label_smoothing and class_weights: got some beside the loss "
                f"{loss!r:.80}; expected a loss of {', '.join(LOSSES)}, or neither."
            )
        self.label_smoothing = label_smoothing
        weights = None if class_weights is None else self._weights(class_weights)
        self.register_buffer("class_weights", weights, persistent=False)
        if callable(loss):
            self.arguments["loss"] = losses.path_of(loss)
        # A validation loss must not depend on a draw: checkpoints are chosen by it.
        self.evaluation_loss = losses.cross_entropy if loss == "sampled_ce" else self.train_loss
        self.layers = perceptron(in_dim, hidden_dims, len(self.vocabulary), dropout)
        check_weight(consistency=consistency)
        self.consistency, self.takes_pairs = consistency, consistency > 0
        exchanged = self._exchanged(opposites) if self.takes_pairs else None
        self.register_buffer("exchanged", exchanged, persistent=False)

    def _weights(self, class_weights: Mapping[str, float]) -> Tensor:
        """The weight (A,) of each answer."""
        answers = self.vocabulary.answers
        if unknown := [answer for answer in class_weights if answer not in self.vocabulary]:
            raise ValueError(
                f"class_weights: got a weight for {unknown[0]!r}, which the vocabulary of "
                f"{len(answers):,} answers lacks ({len(unknown):,} of {len(class_weights):,} "
                f"weights).{did_you_mean(nearest(unknown[0], answers))}"
            )
        check_weight(**{f"class_weights[{name}]": w for name, w in class_weights.items()})
        return torch.tensor([float(class_weights.get(answer, 1)) for answer in answers])

    def _exchanged(self, opposites: tuple[str, str] | None) -> Tensor | None:
        """The number of each answer, with yes and no exchanged."""
        if opposites is None:
            return None
        answers = self.vocabulary.answers
        if len(opposites) != 2 or opposites[0] == opposites[1]:
            raise ValueError(f"opposites: got {opposites!r}; expected two different answers.")
        if missing := [answer for answer in opposites if answer not in answers]:
            raise ValueError(
                f"opposites: got {opposites[0]!r} and {opposites[1]!r}, and the vocabulary lacks "
                f"{missing[0]!r}; expected two of its answers, or null if no questions contradict "
                "one another."
            )
        one, other = map(answers.index, opposites)
        exchanged = torch.arange(len(answers))
        exchanged[[one, other]] = exchanged[[other, one]]
        return exchanged

    def forward(self, fused: Features, batch: Batch) -> Tensor:
        """Logits (Q, A)."""
        return self.layers(fused.pooled)

    if TYPE_CHECKING:
        __call__ = forward

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        values = self.values(output, batch.targets)
        return (values.sum() + self.consistency_loss(output, batch)) / batch.total

    def values(self, output: Tensor, targets: losses.AnswerCounts) -> Tensor:
        """The loss of each question, (Q,), without the loss of pairs."""
        per_question: Any = self.train_loss if self.training else self.evaluation_loss
        options: dict[str, Any] = {}
        if self.training and self.label_smoothing:
            options["smoothing"] = self.label_smoothing
        if self.training and self.class_weights is not None:
            options["weights"] = self.class_weights
        values: Tensor = per_question(output, targets, **options)
        if values.shape != output.shape[:1]:
            raise ValueError(
                f"loss: got shape {tuple(values.shape)} from {self.arguments['loss']}; expected "
                f'{tuple(output.shape[:1])}, a value for each question (`reduction="none"`).'
            )
        return values

    def consistency_loss(self, output: Tensor, batch: Batch) -> Tensor | float:
        """The weighted sum of the disagreement between the two predictions of each pair; 0 in
        evaluation, so losses with different weights remain comparable."""
        pairs = batch.pairs
        if pairs is None or not (self.training and self.takes_pairs):
            return 0.0
        first, second = output[pairs.first], output[pairs.second]
        if self.exchanged is not None:
            second = torch.where(pairs.opposite[:, None], second[:, self.exchanged], second)
        elif pairs.opposite.any():
            raise ValueError(
                "opposites: got None and questions that contradict one another; expected the "
                "answers that exclude each other, such as yes and no."
            )
        return self.consistency * losses.disagreement(first, second, self.independent).sum()


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
