"""Classification over a vocabulary of answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from vlm.core.batch import Batch
from vlm.core.features import Features
from vlm.core.validation import check_positive
from vlm.heads import losses
from vlm.heads.base import AnswerHead, Ranked
from vlm.heads.vocabulary import AnswerVocabulary

LOSSES: dict[str, Callable[[Tensor, losses.AnswerCounts], Tensor]] = {
    "bce": losses.soft_bce,
    "kl": losses.kl_divergence,
    "ce": losses.cross_entropy,
    "sampled_ce": losses.sampled_cross_entropy,
}


class Classification(AnswerHead):
    """A perceptron from the joint vector to one score per answer.

    Args:
        in_dim: width of the joint features.
        answers: the vocabulary (`vlm.heads.count_answers` of the training questions); it must be
            given, which the command line does.
        hidden_dims: widths of the hidden layers; none makes it a linear classifier.
        dropout: share dropped after each hidden layer in training, in [0, 1).
        loss: "bce" against soft scores, "kl" against the annotators' shares, "ce" with the most
            frequent answer, "sampled_ce" with one drawn from the shares in training and the most
            frequent in evaluation (`vlm.heads.losses`).

    Raises:
        ValueError: a width that is not positive, no answers or one twice, an unknown loss.
    """

    vocabulary: AnswerVocabulary

    def __init__(
        self,
        in_dim: int,
        answers: Sequence[str] = (),
        hidden_dims: Sequence[int] = (128,),
        dropout: float = 0.0,
        loss: Literal["bce", "kl", "ce", "sampled_ce"] = "bce",
    ) -> None:
        super().__init__(in_dim)
        check_positive(**{f"hidden_dims[{i}]": dim for i, dim in enumerate(hidden_dims)})
        if loss not in LOSSES:
            raise ValueError(f"loss: got {loss!r}; wanted one of {', '.join(LOSSES)}.")
        self.vocabulary = AnswerVocabulary(answers)
        self.encode_targets = self.vocabulary.encode
        self.independent = loss == "bce"
        self.train_loss = LOSSES[loss]
        # A validation loss must not depend on a draw: checkpoints are chosen by it.
        self.evaluation_loss = losses.cross_entropy if loss == "sampled_ce" else LOSSES[loss]
        layers: list[nn.Module] = []
        dims = [in_dim, *hidden_dims]
        for dim, next_dim in pairwise(dims):
            layers += [nn.Linear(dim, next_dim), nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(dims[-1], len(self.vocabulary)))

    def forward(self, fused: Features, batch: Batch) -> Tensor:
        """Logits (Q, A)."""
        return self.layers(fused.pooled)

    if TYPE_CHECKING:
        __call__ = forward

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        per_question = self.train_loss if self.training else self.evaluation_loss
        return per_question(output, batch.targets).sum() / batch.total

    def decode(self, output: Tensor, top_k: int) -> list[Ranked]:
        """The most likely answers. "bce" gives each answer a probability of its own, which need
        not sum to one; the other losses give a distribution."""
        logits = output.float()
        probabilities = logits.sigmoid() if self.independent else logits.softmax(-1)
        best = probabilities.topk(min(top_k, len(self.vocabulary)), dim=-1)
        answers = self.vocabulary.answers
        return [
            [(answers[i], p) for i, p in zip(row, values, strict=True)]
            for row, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def evidence(self, output: Tensor, answers: Sequence[str]) -> Tensor:
        """The answers' logits."""
        numbers = self.vocabulary.indices(answers)
        columns = torch.tensor(numbers, dtype=torch.long, device=output.device)
        return output.gather(-1, columns[:, None]).squeeze(-1)
