"""Scores of answers as torchmetrics metrics, for training loops and several processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, get_args

import torch
from torch import Tensor
from torchmetrics import Metric

from vlm.core.validation import check_probability
from vlm.metrics.text_match import ANLS_THRESHOLD, anls, exact_match
from vlm.metrics.vqa_accuracy import Rules, vqa_accuracy

OVERALL: Final = "overall"
# Scores are summed as whole numbers of this fraction: exact on any device and in any order, so one
# process and several agree to the last bit. It is 3 lcm(1..16), which makes every VQA accuracy of
# up to 16 annotators a whole number; other scores are rounded, by less than 3e-7 each.
_PARTS: Final = 3 * math.lcm(*range(1, 17))


class MeanScore(Metric):
    """The mean of a score over all questions and for each type, in [0, 1].

    If a distributed sampler repeats questions to even out the processes, these count twice.

    Args:
        score: function of (prediction, annotators' answers) that returns a score in [0, 1].
        types: all answer or question types to report, in the order of the report. They are fixed
            here so that every process holds the same state, whichever types it saw.
        **kwargs: arguments of `torchmetrics.Metric`.

    Raises:
        ValueError: a type that is given twice or is called "overall".

    Example:
        >>> metric = MeanScore(lambda prediction, answers: float(prediction in answers))
        >>> metric.update(["red", "two"], [["red", "pink"], ["three"]])
        >>> metric.compute()
        {'overall': tensor(0.5000)}
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    sums: Tensor
    counts: Tensor

    def __init__(
        self,
        score: Callable[[str, Sequence[str]], float],
        types: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if isinstance(types, str):
            raise TypeError(f"types is the string {types!r}, but must be a sequence: [{types!r}]")
        self.score = score
        self.names = (OVERALL, *types)
        if len(set(self.names)) < len(self.names):
            raise ValueError(
                f"types is {list(types)}, but names must differ from each other and from "
                f"{OVERALL!r}: rename or drop the repeated one"
            )
        self._index = {name: index for index, name in enumerate(types, start=1)}
        for state in ("sums", "counts"):
            zeros = torch.zeros(len(self.names), dtype=torch.int64)
            self.add_state(state, default=zeros, dist_reduce_fx="sum")

    def update(
        self,
        predictions: Sequence[str],
        answers: Sequence[Sequence[str]],
        types: Sequence[str] | None = None,
    ) -> None:
        """Count a batch of Q questions. After an error, nothing of the batch is counted.

        Args:
            predictions: the model's answers to Q questions.
            answers: Q lists of the annotators' answers.
            types: the type of each question; required if and only if the metric was made with
                types.

        Raises:
            ValueError: lengths that differ, an unknown type, or missing types.
            TypeError, ValueError: errors of the score.
        """
        self._check(predictions, answers, types)
        sums, counts = [0] * len(self.names), [0] * len(self.names)
        for row, (prediction, written) in enumerate(zip(predictions, answers, strict=True)):
            parts = round(self.score(prediction, written) * _PARTS)
            for index in (0,) if types is None else (0, self._index[types[row]]):
                sums[index] += parts
                counts[index] += 1
        self.sums += torch.tensor(sums, device=self.sums.device)
        self.counts += torch.tensor(counts, device=self.counts.device)

    def compute(self) -> dict[str, Tensor]:
        """Scalar tensors in [0, 1] for "overall" and each type; nan for a type without
        questions."""
        return {
            name: torch.tensor(parts / (count * _PARTS) if count else math.nan, device=self.device)
            for name, parts, count in zip(
                self.names, self.sums.tolist(), self.counts.tolist(), strict=True
            )
        }

    def _check(
        self,
        predictions: Sequence[str],
        answers: Sequence[Sequence[str]],
        types: Sequence[str] | None,
    ) -> None:
        if isinstance(predictions, str):
            raise TypeError(
                f"predictions is the string {predictions!r}, but must be a sequence of strings: "
                f"for a single question pass [{predictions!r}]"
            )
        for name, given in (("answers", answers), ("types", types)):
            if given is not None and len(given) != len(predictions):
                raise ValueError(
                    f"{name} has length {len(given)} and predictions {len(predictions)}, "
                    f"but each question needs one of both"
                )
        if types is None and self._index:
            raise ValueError(
                f"types is None, but the metric reports {list(self._index)}: "
                "pass the type of each question"
            )
        for name in () if types is None else types:
            if name not in self._index:
                raise ValueError(
                    f"types contains {name!r}, but the metric was made for {list(self._index)}: "
                    f"name every type in {type(self).__name__}(types=...)"
                )


class VQAAccuracy(MeanScore):
    """Mean VQA accuracy (`vqa_accuracy`) over all questions and for each type, in [0, 1].

    Unlike the official evaluator, this metric has no percent, no rounding to two decimals, no
    per-question table, no check that every question of a split was answered, and does not edit the
    annotations (so a second run on the same objects gives the same score).

    Args:
        types: answer or question types to report, as for `MeanScore`.
        rules: year of the official evaluator, "2021" or "2016".
        **kwargs: arguments of `torchmetrics.Metric`.

    Raises:
        ValueError: an error of `MeanScore`, or unknown `rules`.

    Example:
        >>> metric = VQAAccuracy()
        >>> metric.update(["two"], [["2"] * 3 + ["3"] * 7])
        >>> metric.compute()
        {'overall': tensor(0.9000)}
    """

    def __init__(self, types: Sequence[str] = (), rules: Rules = "2021", **kwargs: Any) -> None:
        if rules not in get_args(Rules):
            raise ValueError(f"rules is {rules!r}, but must be one of {get_args(Rules)}")
        super().__init__(partial(vqa_accuracy, rules=rules), types, **kwargs)


class ExactMatch(MeanScore):
    """Share of the questions whose answer an annotator wrote (`exact_match`), in [0, 1].

    Args:
        types: answer or question types to report, as for `MeanScore`.
        **kwargs: arguments of `torchmetrics.Metric`.

    Example:
        >>> metric = ExactMatch()
        >>> metric.update(["red", "two"], [["red", "pink"], ["three"]])
        >>> metric.compute()
        {'overall': tensor(0.5000)}
    """

    def __init__(self, types: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(exact_match, types, **kwargs)


class ANLS(MeanScore):
    """Average normalised Levenshtein similarity (`anls`; Biten et al. 2019), in [0, 1].

    Args:
        threshold: share of wrong letters at which an answer scores 0, in (0, 1].
        types: answer or question types to report, as for `MeanScore`.
        **kwargs: arguments of `torchmetrics.Metric`.

    Example:
        >>> metric = ANLS()
        >>> metric.update(["read", "two"], [["red"], ["three"]])
        >>> metric.compute()
        {'overall': tensor(0.3750)}
    """

    def __init__(
        self, threshold: float = ANLS_THRESHOLD, types: Sequence[str] = (), **kwargs: Any
    ) -> None:
        check_probability(threshold=threshold)
        super().__init__(partial(anls, threshold=threshold), types, **kwargs)
