"""Multiple choice: candidates written as text, scored against the joint vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from vlm.core.batch import Batch
from vlm.core.features import Features, masked_softmax
from vlm.core.padding import distinct, padded
from vlm.core.validation import check_positive
from vlm.fusion.base import MergeFactory
from vlm.fusion.merges import ConcatMLP
from vlm.heads.base import AnswerHead, Ranked, required_choices


class ChoiceScores(NamedTuple):
    """Output of `MultipleChoice`.

    Attributes:
        logits: (Q, N) float, one per candidate; values in the padding mean nothing.
        mask: (Q, N) bool, True = a real candidate.
        texts: the candidates of each question.

    Example:
        >>> mask = torch.tensor([[True, True], [True, False]])
        >>> scores = vlm.heads.ChoiceScores(torch.randn(2, 2), mask, [["red", "blue"], ["yes"]])
        >>> [len(ranked) for ranked in vlm.heads.MultipleChoice(64, 32).decode(scores, top_k=5)]
        [2, 1]
    """

    logits: Tensor
    mask: Tensor
    texts: list[list[str]]


class MultipleChoice(AnswerHead):
    """Picks one of each question's candidates: softmax over s_n = w . merge(joint, choice_n).

    The candidates pass through the model's text encoder, each different text of a batch once. Any
    merge can combine a candidate's pooled vector with the joint vector: a perceptron on both, as in
    Jabri et al. 2016 (arXiv 1606.08390; they score each candidate separately, without a softmax),
    or MCB, as Fukui et al. 2016 (arXiv 1606.01847) encode answers. Questions may have different
    numbers of candidates. The order of candidates changes no score.

    The loss is the cross-entropy with the shares of the annotators who gave each candidate; for one
    annotator, -log p(right candidate). An answer is a candidate only if both texts are exactly
    equal.

    Args:
        in_dim: width of the joint features.
        text_dim: width of the text encoder; required, but the command line fills it in.
        merge: class or partial that makes the merge from (in_dim, text_dim).

    Raises:
        ValueError: a width that is not positive.

    Example:
        >>> head = vlm.heads.MultipleChoice(in_dim=64, text_dim=32)
        >>> head.encode_targets([["red"], ["no"]], [["red", "blue"], ["yes", "no"]])
        tensor([[1., 0.],
                [0., 1.]])
    """

    takes_choices = True
    text_dim: int

    def __init__(self, in_dim: int, text_dim: int = 0, merge: MergeFactory = ConcatMLP) -> None:
        super().__init__(in_dim)
        check_positive(text_dim=text_dim)
        self.text_dim = text_dim
        self.merge = merge(in_dim, text_dim)
        # Without a bias, which the softmax would cancel.
        self.score = nn.Linear(self.merge.out_dim, 1, bias=False)
        self.encode_targets = annotator_shares

    def forward(self, fused: Features, batch: Batch) -> ChoiceScores:
        """Scores of the candidates.

        Raises:
            ValueError: the batch has no choices.
        """
        choices = required_choices(batch)
        assert choices.features is not None, "VQAModel encodes them"
        candidates = choices.features.pooled[choices.text_index]  # (Q, N, D)
        logits = self.score(self.merge(fused.pooled[:, None], candidates)).squeeze(-1)  # (Q, N)
        return ChoiceScores(logits, choices.mask, choices.texts)

    if TYPE_CHECKING:
        __call__ = forward

    def loss(self, output: ChoiceScores, batch: Batch) -> Tensor:
        logits = output.logits.float()
        log_shares = logits.masked_fill(~output.mask, torch.finfo(logits.dtype).min).log_softmax(-1)
        return -(batch.targets.to(logits.dtype) * log_shares).sum() / batch.total

    def decode(self, output: ChoiceScores, top_k: int) -> list[Ranked]:
        """The likeliest candidates; among equal scores, the first."""
        shares = masked_softmax(output.logits.float(), output.mask).tolist()
        return [
            sorted(zip(texts, row[: len(texts)], strict=True), key=lambda pair: -pair[1])[:top_k]
            for texts, row in zip(output.texts, shares, strict=True)
        ]

    def evidence(self, output: ChoiceScores, answers: Sequence[str]) -> Tensor:
        """The logits of the candidates with these texts."""
        columns = []
        for texts, answer in zip(output.texts, answers, strict=True):
            if answer not in texts:
                raise ValueError(
                    f"answers: got {answer!r}; expected one of the question's choices, "
                    f"{', '.join(map(repr, texts))}."
                )
            columns.append(texts.index(answer))
        index = torch.tensor(columns, dtype=torch.long, device=output.logits.device)
        return output.logits.gather(-1, index[:, None]).squeeze(-1)


def annotator_shares(
    answers: Sequence[Sequence[str]], choices: Sequence[Sequence[str]] | None
) -> Tensor:
    """Share (Q, N) of the annotators who gave each candidate, of those who gave any."""
    if choices is None:
        raise ValueError("choices: got none; expected the candidates of each question.")
    pairs, pair_of = distinct(zip(map(tuple, answers), map(tuple, choices), strict=True))
    counts = [[given.count(text) for text in texts] for given, texts in pairs]
    for (given, texts), row in zip(pairs, counts, strict=True):
        if not any(row):
            raise ValueError(
                f"answers: got {list(given)!r}; expected one of the choices "
                f"{', '.join(map(repr, texts))}."
            )
    shares = padded(counts)[0].float()
    return (shares / shares.sum(-1, keepdim=True))[torch.tensor(pair_of, dtype=torch.long)]
