"""Losses of the VQA literature over an answer vocabulary, each one value per question.

Their target is how many of a question's annotators gave each answer of the vocabulary. Answers
outside the vocabulary have no column; a question with none inside it has a row of zeros. All is
computed in float32 at least, whatever the logits' type: in bf16 a loss of 7.75 may become 0.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class AnswerCounts(NamedTuple):
    """What the annotators said.

    Attributes:
        counts: (Q, A) float: annotators who gave the answer.
        annotators: (Q,) float: annotators asked, those with other answers included.
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


def soft_bce(logits: Tensor, target: AnswerCounts) -> Tensor:
    """Binary cross-entropy against the soft scores, summed over answers (1708.02711, eq. 6)."""
    logits = wide(logits)
    scores = soft_scores(target).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, scores, reduction="none").sum(-1)


def kl_divergence(logits: Tensor, target: AnswerCounts) -> Tensor:
    """KL divergence from the annotators' shares to the prediction (arXiv 1708.01471, section 4.2).

    Shares of answers outside the vocabulary are left out of the sum.
    """
    logits = wide(logits)
    said = shares(target).to(logits.dtype)
    return F.kl_div(logits.log_softmax(-1), said, reduction="none").sum(-1)


def cross_entropy(logits: Tensor, target: AnswerCounts) -> Tensor:
    """Cross-entropy with the most frequent answer; 0 for a question with none in the vocabulary."""
    loss = F.cross_entropy(wide(logits), target.counts.argmax(-1), reduction="none")
    return loss * target.counts.any(-1)


def entropy(logits: Tensor, independent: bool) -> Tensor:
    """Entropy in nats, at least 0, of the prediction for each question (Q,).

    Args:
        logits: (Q, A).
        independent: each answer has a probability of its own, and the mean of their entropies is
            taken; else the answers share one distribution.
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
        independent: each answer has a probability of its own; else the answers share one
            distribution.
    """
    z, other = wide(first), wide(second)
    p, q = (x.sigmoid() if independent else x.softmax(-1) for x in (z, other))
    return ((p - q) * (z - other)).sum(-1)


def sampled_cross_entropy(logits: Tensor, target: AnswerCounts) -> Tensor:
    """Cross-entropy with an answer drawn from the annotators' shares (arXiv 1610.04325, section 5).

    Drawn anew at each call from torch's generator; 0 for a question with none in the vocabulary.
    """
    known = target.counts.any(-1)
    weights = torch.where(known[:, None], wide(target.counts), 1)
    drawn = torch.multinomial(weights, 1).squeeze(-1)
    return F.cross_entropy(wide(logits), drawn, reduction="none") * known
