"""VQA accuracy as a torchmetrics metric, for training loops and several processes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, get_args

import torch
from torch import Tensor
from torchmetrics import Metric

from vlm.metrics.vqa_accuracy import Rules, vqa_accuracy

OVERALL: Final = "overall"
# Scores are summed as whole numbers of this fraction: exact on any device and in any order, so one
# process and several agree to the last bit. It is 3 lcm(1..16), which makes every score of up to 16
# annotators a whole number; scores of more are rounded, by less than 3e-7 each.
_PARTS: Final = 3 * math.lcm(*range(1, 17))


class VQAAccuracy(Metric):
    """Mean VQA accuracy over all questions and for each type, in [0, 1].

    Each question is scored by `vqa_accuracy`. What the official evaluator does beyond that is left
    out: no percent, no rounding to two decimals, no per-question table, no check that every
    question of a split was answered, and no editing of the annotations (the evaluator's second run
    on the same objects can score differently; this one cannot). A distributed sampler that repeats
    questions to even out the processes has them counted twice.

    Args:
        types: the answer or question types to report, all of them, in the order of the report. They
            are fixed here so that every process holds the same state, whichever types it saw.
        rules: year of the official evaluator, "2021" or "2016".
        **kwargs: of `torchmetrics.Metric`.

    Raises:
        ValueError: a type is given twice or is called "overall", or `rules` is unknown.

    Example:
        >>> metric = vlm.metrics.VQAAccuracy()
        >>> metric.update(["red", "2"], [["red"] * 10, ["2"] * 2 + ["3"] * 8])
        >>> metric.compute()
        {'overall': tensor(0.8000)}
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    sums: Tensor
    counts: Tensor

    def __init__(self, types: Sequence[str] = (), rules: Rules = "2021", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if isinstance(types, str):
            raise TypeError(f"types is the string {types!r}, but must be a sequence: [{types!r}]")
        self.names = (OVERALL, *types)
        if len(set(self.names)) < len(self.names):
            raise ValueError(
                f"types is {list(types)}, but names must differ from each other and from "
                f"{OVERALL!r}: rename or drop the repeated one"
            )
        if rules not in get_args(Rules):
            raise ValueError(f"rules is {rules!r}, but must be one of {get_args(Rules)}")
        self.rules: Rules = rules
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
        """Count a batch of Q questions. On an error nothing of the batch is counted.

        Args:
            predictions: Q answers given.
            answers: Q lists of what the annotators wrote.
            types: the type of each question; needed if and only if the metric was made with types.

        Raises:
            ValueError: lengths differ, a type is unknown, or types are missing.
            TypeError, ValueError: as `vqa_accuracy`.
        """
        self._check(predictions, answers, types)
        sums, counts = [0] * len(self.names), [0] * len(self.names)
        for row, (prediction, written) in enumerate(zip(predictions, answers, strict=True)):
            parts = round(vqa_accuracy(prediction, written, self.rules) * _PARTS)
            for index in (0,) if types is None else (0, self._position(types[row])):
                sums[index] += parts
                counts[index] += 1
        self.sums += torch.tensor(sums, device=self.sums.device)
        self.counts += torch.tensor(counts, device=self.counts.device)

    def compute(self) -> dict[str, Tensor]:
        """Scalar tensors in [0, 1] for "overall" and each type; nan where no question came."""
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
        if len(predictions) != len(answers):
            raise ValueError(
                f"predictions has {len(predictions)} questions and answers {len(answers)}, "
                "but each question needs one of both"
            )
        if types is None:
            if self._index:
                raise ValueError(
                    f"types is None, but the metric reports {list(self._index)}: "
                    "pass the type of each question"
                )
        elif len(types) != len(predictions):
            raise ValueError(
                f"types has {len(types)} questions and predictions {len(predictions)}, "
                "but each question needs one of both"
            )

    def _position(self, name: str) -> int:
        try:
            return self._index[name]
        except KeyError:
            raise ValueError(
                f"types contains {name!r}, but the metric was made for {list(self._index)}: "
                "name every type in VQAAccuracy(types=...)"
            ) from None
