"""Losses of the VQA literature over an answer vocabulary, each one value per question.

Their target is how many of a question's annotators gave each answer of the vocabulary. Answers
outside the vocabulary have no column; a question with none inside it has a row of zeros. All is
computed in float32 at least, whatever the logits' type: in bf16 a loss of 7.75 may become 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class AnswerCounts(NamedTuple):
    """The annotators' answers, counted.

    Attributes:
        counts: (Q, A) float, number of annotators who gave each answer.
        annotators: (Q,) float, number of all annotators, including those with other answers.
    """

    counts: Tensor
    annotators: Tensor


Loss = Callable[[Tensor, AnswerCounts], Tensor]
"""(logits (Q, A), what the annotators said) -> a value for each question (Q,)."""


def path_of(function: Loss) -> str:
    """The dotted path of a function, or of that inside a partial."""
    while isinstance(function, partial):
        function = function.func
    return f"{function.__module__}.{getattr(function, '__qualname__', type(function).__qualname__)}"


def wide(values: Tensor) -> Tensor:
    """The values in float32 at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def soft_scores(target: AnswerCounts) -> Tensor:
    """Accuracy (Q, A) in [0, 1] that each answer would earn: the official leave-one-out rule.

    With ten annotators 0, 1, 2, 3, 4 or more agreeing give 0, 0.3, 0.6, 0.9, 1 (the targets of
    arXiv 1708.02711, section 3.3). A single annotator gives 1.
    """
    n, total = wide(target.counts), wide(target.annotators)[:, None]
    said_it = n * ((n - 1) / 3).clamp(0, 1)
    did_not = (total - n) * (n / 3).clamp(max=1)
    return torch.where(total == 1, n, (said_it + did_not) / total.clamp(min=1))


def shares(target: AnswerCounts) -> Tensor:
    """Share (Q, A) of the annotators who gave each answer."""
    return wide(target.counts) / target.annotators[:, None].clamp(min=1)


def smoothed(target: Tensor, smoothing: float, outcomes: int) -> Tensor:
    """(1 - e) q + e / K: a target with a share e of doubt (Szegedy et al. 2016, arXiv 1512.00567,
    section 7).

    Args:
        target: probabilities q.
        smoothing: e in [0, 1).
        outcomes: number K of outcomes over which the doubt is spread: the answers of one
            distribution, or 2 (yes and no) if each answer has its own probability.
    """
    return target if not smoothing else (1 - smoothing) * target + smoothing / outcomes


def soft_bce(
    logits: Tensor, target: AnswerCounts, smoothing: float = 0.0, weights: Tensor | None = None
) -> Tensor:
    """Binary cross-entropy against the soft scores, summed over answers (1708.02711, eq. 6).

    Args:
        logits, target: logits and targets of Q questions.
        smoothing: share of doubt in each score (`smoothed`), in [0, 1).
        weights: (A,) weight of each answer's term; None for 1.
    """
    return focal(logits, target, 0.0, smoothing, weights)


def focal(
    logits: Tensor,
    target: AnswerCounts,
    gamma: float = 2.0,
    smoothing: float = 0.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Focal loss against the soft scores, summed over answers: |s - p|^gamma times binary
    cross-entropy.

    This is the loss of Lin et al. (2017, arXiv 1708.02002, eq. 4) if a score s is 0 or 1, and
    otherwise its form for soft scores by Li et al. (2020, arXiv 2006.04388, eq. 2), with the
    minimum at p = s. So the many answers that are clearly wrong weigh little compared with the few
    that are hard.

    Args:
        logits, target: logits and targets of Q questions.
        gamma: 0, which is `soft_bce`, or at least 1.
        smoothing, weights: smoothing and weights, as for `soft_bce`.
    """
    logits = wide(logits)
    scores = smoothed(soft_scores(target).to(logits.dtype), smoothing, 2)
    terms = F.binary_cross_entropy_with_logits(logits, scores, weights, reduction="none")
    if gamma:
        terms = terms * (scores - logits.sigmoid()).abs() ** gamma
    return terms.sum(-1)


def kl_divergence(
    logits: Tensor, target: AnswerCounts, smoothing: float = 0.0, weights: Tensor | None = None
) -> Tensor:
    """KL divergence from the annotators' shares to the prediction (arXiv 1708.01471, section 4.2).

    Shares of answers outside the vocabulary are left out of the sum, and a question with none
    inside it counts 0.

    Args:
        logits, target: logits and targets of Q questions.
        smoothing: share of doubt in the shares (`smoothed`), in [0, 1).
        weights: (A,) weight of each answer's term; None for 1.
    """
    logits = wide(logits)
    said = smoothed(shares(target).to(logits.dtype), smoothing, logits.shape[-1])
    terms = F.kl_div(logits.log_softmax(-1), said, reduction="none")
    return (terms if weights is None else terms * weights).sum(-1) * target.counts.any(-1)


def cross_entropy(
    logits: Tensor, target: AnswerCounts, smoothing: float = 0.0, weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy with the most frequent answer; 0 for a question with none in the vocabulary.

    Args:
        logits, target: logits and targets of Q questions.
        smoothing: share of doubt in the answer (`smoothed`), in [0, 1).
        weights: (A,) weight of each answer's term; None for 1.
    """
    return _against(logits, target.counts.argmax(-1), target, smoothing, weights)


def _against(
    logits: Tensor,
    answer: Tensor,
    target: AnswerCounts,
    smoothing: float,
    weights: Tensor | None,
) -> Tensor:
    logits = wide(logits)
    weights = None if weights is None else weights.to(logits.dtype)
    loss = F.cross_entropy(logits, answer, weights, label_smoothing=smoothing, reduction="none")
    return loss * target.counts.any(-1)


def balanced_weights(counts: Mapping[str, int]) -> dict[str, float]:
    """Weights that give all answers the same total: n / (A n_a) for an answer given n_a of n times.

    Args:
        counts: number of training questions with each of A answers.

    Raises:
        ValueError: an answer that no question has.

    Example:
        >>> balanced_weights({"yes": 3, "no": 1})
        {'yes': 0.6666666666666666, 'no': 2.0}
    """
    for answer, count in counts.items():
        if count < 1:
            raise ValueError(f"counts: got {count} of {answer!r}; expected 1 or more.")
    total = sum(counts.values())
    return {answer: total / (len(counts) * count) for answer, count in counts.items()}


def distillation(logits: Tensor, teacher: Tensor, temperature: float, independent: bool) -> Tensor:
    """T^2 KL(teacher || student) of predictions softened by a temperature, for each question (Q,).

    Hinton et al. (2015, arXiv 1503.02531, section 2): both sides' logits are divided by T, and T^2
    keeps the size of the gradients whatever T is.

    Args:
        logits: (Q, A) of the student.
        teacher: (Q, A) of the teacher, for the same answers.
        temperature: T > 0.
        independent: whether each answer has its own probability, so their divergences are added, or
            the answers share one distribution.
    """
    student, teacher = wide(logits) / temperature, wide(teacher) / temperature
    if independent:
        p = teacher.sigmoid()
        certain = F.binary_cross_entropy_with_logits(teacher, p, reduction="none")
        terms = F.binary_cross_entropy_with_logits(student, p, reduction="none") - certain
    else:
        known = teacher.log_softmax(-1)
        terms = F.kl_div(student.log_softmax(-1), known, log_target=True, reduction="none")
    return temperature**2 * terms.sum(-1)


def log_odds(logits: Tensor) -> Tensor:
    """log p / (1 - p) of each answer (Q, A) in one distribution: what `sigmoid` reads as p, where
    logits of a distribution mean nothing by themselves."""
    log_p = wide(logits).log_softmax(-1)
    return log_p - (-torch.expm1(log_p.clamp(max=-1e-7))).log()


def entropy(logits: Tensor, independent: bool) -> Tensor:
    """Entropy in nats, at least 0, of the prediction for each question (Q,).

    Args:
        logits: (Q, A).
        independent: whether each answer has its own probability, so the result is the mean of their
            entropies, or the answers share one distribution.
    """
    z = wide(logits)
    if independent:
        return (z.sigmoid() * F.softplus(-z) + (-z).sigmoid() * F.softplus(z)).mean(-1)
    return -(z.softmax(-1) * z.log_softmax(-1)).sum(-1)


def disagreement(first: Tensor, second: Tensor, independent: bool) -> Tensor:
    """Symmetric KL divergence KL(p, q) + KL(q, p), at least 0, of P pairs of predictions, (P,).

    With logits z and z' this is sum over a of (p_a - q_a) (z_a - z'_a), of one distribution over
    the answers, where what normalises them drops out, as of a probability for each answer, where
    the divergences of the answers are added.

    Args:
        first, second: logits (P, A) of p and q.
        independent: whether each answer has its own probability, or the answers share one
            distribution.
    """
    z, other = wide(first), wide(second)
    p, q = (x.sigmoid() if independent else x.softmax(-1) for x in (z, other))
    return ((p - q) * (z - other)).sum(-1)


def sampled_cross_entropy(
    logits: Tensor, target: AnswerCounts, smoothing: float = 0.0, weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy with an answer drawn from the annotators' shares (arXiv 1610.04325, section 5).

    Drawn anew at each call from torch's generator; 0 for a question with none in the vocabulary.
    The arguments are those of `cross_entropy`.
    """
    known = target.counts.any(-1)
    likely = torch.where(known[:, None], wide(target.counts), 1)
    drawn = torch.multinomial(likely, 1).squeeze(-1)
    return _against(logits, drawn, target, smoothing, weights)
