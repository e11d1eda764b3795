"""Learning-rate schedules that know how long training will be.

Lengths are in the `unit` of the schedule: "share" of the whole training, "steps" of the optimiser,
or "epochs"; what lies beyond the training's end never comes. A schedule multiplies the learning
rate of every part alike.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

Unit = Literal["share", "steps", "epochs"]


class Falling(LambdaLR, ABC):
    """Linear warm-up, then a decay along a curve; stepped after every step of the optimiser.

    Args:
        optimizer: optimiser whose learning rate is the peak.
        total_steps: number of optimiser steps of the whole training.
        epoch_steps: number of optimiser steps of an epoch.
        warmup: length of the warm-up.
        final: learning rate at the end as a share of the peak, in [0, 1].
        unit: unit of `warmup`.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        epoch_steps: int,
        warmup: float = 0.1,
        final: float = 0.0,
        unit: Unit = "share",
    ) -> None:
        if not 0 <= final <= 1:
            raise ValueError(f"final: got {final}; expected a share between 0 and 1.")
        start = _warmup_steps(warmup, total_steps, epoch_steps, unit)

        def down(step: int) -> float:
            # How much of what follows the warm-up is done.
            progress = min(1.0, (step - start) / max(1, total_steps - start))
            return final + (1 - final) * self.curve(progress)

        super().__init__(optimizer, _after_warmup(start, down))

    @staticmethod
    @abstractmethod
    def curve(progress: float) -> float:
        """From 1 to 0 while `progress` goes from 0 to 1."""


class WarmupCosine(Falling):
    """Linear warm-up, then a decay along half a cosine.

    Example:
        >>> optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
        >>> schedule = vlm.training.WarmupCosine(optimizer, 100, epoch_steps=10, warmup=0.1)
        >>> [round(schedule.lr_lambdas[0](step), 2) for step in (4, 20, 60, 100)]
        [0.45, 0.97, 0.41, 0.0]
    """

    @staticmethod
    def curve(progress: float) -> float:
        return (1 + math.cos(math.pi * progress)) / 2


class WarmupLinear(Falling):
    """Linear warm-up, then a linear decay.

    Example:
        >>> optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
        >>> schedule = vlm.training.WarmupLinear(optimizer, 100, epoch_steps=10, warmup=0.1)
        >>> [round(schedule.lr_lambdas[0](step), 2) for step in (4, 20, 60, 100)]
        [0.45, 0.89, 0.44, 0.0]
    """

    @staticmethod
    def curve(progress: float) -> float:
        return 1 - progress


class WarmupSteps(LambdaLR):
    """Linear warm-up, then a constant that falls at milestones; stepped after every step.

    Args:
        optimizer, total_steps, epoch_steps, warmup: optimiser, lengths and warm-up, as for
            `Falling`.
        milestones: times in ascending order at which the learning rate is multiplied by `factor`;
            none keeps it constant.
        factor: multiplier of the learning rate at a milestone, in (0, 1].
        unit: unit of `warmup` and `milestones`.

    Example:
        >>> optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
        >>> schedule = vlm.training.WarmupSteps(optimizer, 100, epoch_steps=10, milestones=[5])
        >>> [round(schedule.lr_lambdas[0](step), 2) for step in (4, 20, 60, 100)]
        [1.0, 1.0, 0.1, 0.1]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        epoch_steps: int,
        warmup: float = 0.0,
        milestones: Sequence[float] = (),
        factor: float = 0.1,
        unit: Unit = "epochs",
    ) -> None:
        if list(milestones) != sorted(milestones) or not 0 < factor <= 1:
            raise ValueError(
                f"milestones, factor: got {list(milestones)} and {factor}; expected lengths in "
                f"ascending order, and a factor above 0 and at most 1."
            )
        start = _warmup_steps(warmup, total_steps, epoch_steps, unit)
        falls = [_steps(length, total_steps, epoch_steps, unit) for length in milestones]

        def stairs(step: int) -> float:
            return float(factor ** sum(step >= fall for fall in falls))

        super().__init__(optimizer, _after_warmup(start, stairs))


def _after_warmup(start: int, after: Callable[[int], float]) -> Callable[[int], float]:
    return lambda step: (step + 1) / (start + 1) if step < start else after(step)


def _steps(length: float, total_steps: int, epoch_steps: int, unit: Unit) -> int:
    return round(length * {"share": total_steps, "steps": 1, "epochs": epoch_steps}[unit])


def _warmup_steps(warmup: float, total_steps: int, epoch_steps: int, unit: Unit) -> int:
    if warmup < 0 or (unit == "share" and warmup >= 1):
        raise ValueError(f"warmup: got {warmup}; expected 0 or more {unit}, a share below 1.")
    return _steps(warmup, total_steps, epoch_steps, unit)
