"""Classification that learns beside a question-only branch, and answers without it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from vlm.core.batch import Batch
from vlm.core.features import Features
from vlm.core.validation import check_positive, check_weight
from vlm.fusion.perceptron import perceptron
from vlm.heads import losses
from vlm.heads.classification import Classification


class Mixture(NamedTuple):
    """What the training of `LearnedMixin` reads.

    Attributes:
        logits: (Q, A) of the model.
        bias: (Q, A) of the question-only branch.
        gate: (Q, 1) float >= 0, how far the branch's prediction is relied on.
    """

    logits: Tensor
    bias: Tensor
    gate: Tensor


class LearnedMixin(Classification):
    """LMH: a classifier that does not learn what the question alone says.

    Clark et al., "Don't Take the Easy Way Out" (EMNLP 2019, arXiv 1909.03683), section 3. In
    training a branch b guesses the answer from the question alone, and the loss is that of the
    ensemble

        softmax(log p + g log b),   g = softplus(w . joint + c)

    If b is already right, p has little to learn, so p learns mainly what contradicts the prior.
    With g = 0, p would learn the prior itself, so the entropy of softmax(g log b), times `entropy`,
    is added to the loss. Answers come only from p, which needs no question features. Use it if the
    prior of the answers changes between training and use; otherwise the prior helps, and
    `Classification` is better.

    In the paper, b is trained beforehand, from the type of the question. Here it is a perceptron on
    the text encoder's `pooled`, trained together with the rest by the head's own loss: b gets no
    gradient from the ensemble, and the text encoder none from b. `smoothing` is added to b. Without
    it, b would be 0 for impossible answers (red for "how many"), and p would learn nothing about
    them. The authors' code learns this value, starting from the default here, and only for "bce";
    here it is fixed. With the loss "bce" the formula applies to yes and no of each answer, and the
    entropy is the mean over answers. The logits of the ensemble are those of p plus g log b or,
    with "bce", plus g (log b - log(1 - b)) for each answer. The loss of an evaluation is that of p.

    Args:
        in_dim: width of the joint features.
        text_dim: width of the text encoder; required, but the command line fills it in.
        answers, hidden_dims, dropout, loss, consistency, opposites: vocabulary, layers and loss, as
            for `Classification`; the branch has the same hidden layers.
        entropy: weight of the entropy, at least 0; 0 for the paper's learned-mixin without entropy.
        smoothing: positive value added to each probability of the branch and, with "bce", to the
            probability of its opposite.

    Raises:
        ValueError: as for `Classification`, a negative weight, or no smoothing.

    Example:
        >>> head = vlm.heads.LearnedMixin(in_dim=64, text_dim=32, answers=["yes", "no"]).eval()
        >>> head(vlm.Features(torch.randn(2, 7, 64)), batch=None).shape
        torch.Size([2, 2])
    """

    reads_question = True
    text_dim: int

    def __init__(
        self,
        in_dim: int,
        text_dim: int = 0,
        answers: Sequence[str] = (),
        hidden_dims: Sequence[int] = (128,),
        dropout: float = 0.0,
        loss: Literal["bce", "kl", "ce", "sampled_ce"] | losses.Loss = "bce",
        consistency: float = 0.0,
        opposites: tuple[str, str] | None = ("yes", "no"),
        entropy: float = 0.36,
        smoothing: float = 0.27,
    ) -> None:
        super().__init__(in_dim, answers, hidden_dims, dropout, loss, consistency, opposites)
        check_positive(text_dim=text_dim)
        check_weight(entropy=entropy)
        if not 0 < smoothing < math.inf:
            raise ValueError(f"smoothing: got {smoothing!r}; expected a positive number.")
        self.text_dim, self.entropy, self.smoothing = text_dim, entropy, smoothing
        self.question_only = perceptron(text_dim, hidden_dims, len(self.vocabulary), dropout)
        self.gate = nn.Linear(in_dim, 1)

    def forward(self, fused: Features, batch: Batch) -> Tensor | Mixture:  # type: ignore[override]  # the mixture in training alone
        """Logits (Q, A); in training, with the other values that the loss reads.

        Raises:
            ValueError: in training, a batch without the encoded questions.
        """
        logits = super().forward(fused, batch)
        if not self.training:
            return logits
        if batch.question is None:
            raise ValueError(
                "question: got none; expected the encoded questions, which VQAModel adds to the "
                "batch (`batch._replace(question=model.read(batch))`)."
            )
        bias = self.question_only(batch.question.pooled.detach())
        return Mixture(logits, bias, F.softplus(self.gate(fused.pooled)))

    def loss(self, output: Tensor | Mixture, batch: Batch) -> Tensor:
        if isinstance(output, Tensor):
            return super().loss(output, batch)
        logits, bias, gate = (losses.wide(each) for each in output)
        relied_on = gate * self._log_bias(bias.detach())
        mixed = self.values(logits + relied_on, batch.targets)
        values = mixed + self.entropy * losses.entropy(relied_on, self.independent)
        total = (values + self.values(bias, batch.targets)).sum()
        return (total + self.consistency_loss(output.logits, batch)) / batch.total

    def _log_bias(self, bias: Tensor) -> Tensor:
        """log b, smoothed; of independent answers log b - log(1 - b)."""
        if not self.independent:
            return (bias.softmax(-1) + self.smoothing).log()
        yes, no = bias.sigmoid(), (-bias).sigmoid()
        return (yes + self.smoothing).log() - (no + self.smoothing).log()
