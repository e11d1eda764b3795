"""Learning-rate schedules that know how long training will be.

Lengths are in the `unit` of the schedule: "share" of the whole training, "steps" of the optimiser,
or "epochs"; what lies beyond the training's end never comes. A schedule multiplies the learning
rate of every part alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

Unit = Literal["share", "steps", "epochs"]


class WarmupCosine(LambdaLR):
    """Linear warm-up, then half a cosine down; stepped after every step of the optimiser.

    Args:
        optimizer: whose learning rate is the peak.
        total_steps: optimiser steps of the whole training.
        epoch_steps: optimiser steps of an epoch.
        warmup: length of the warm-up.
        final: learning rate at the end as a share of the peak, in [0, 1].
        unit: of `warmup`.
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
        _check_final(final)
        start = _warmup_steps(warmup, total_steps, epoch_steps, unit)

        def cosine(step: int) -> float:
            progress = _progress(step, start, total_steps)
            return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2

        super().__init__(optimizer, _after_warmup(start, cosine))


class WarmupLinear(LambdaLR):
    """Linear warm-up, then a straight line down; stepped after every step of the optimiser.

    Args:
        optimizer, total_steps, epoch_steps, warmup, final, unit: as for `WarmupCosine`.
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
        _check_final(final)
        start = _warmup_steps(warmup, total_steps, epoch_steps, unit)

        def line(step: int) -> float:
            return 1 - (1 - final) * _progress(step, start, total_steps)

        super().__init__(optimizer, _after_warmup(start, line))


class WarmupSteps(LambdaLR):
    """Linear warm-up, then a constant that falls at milestones; stepped after every step of the
    optimiser.

    Args:
        optimizer, total_steps, epoch_steps, warmup: as for `WarmupCosine`.
        milestones: when the learning rate is multiplied by `factor`, in ascending order; none is a
            constant.
        factor: in (0, 1].
        unit: of `warmup` and `milestones`.
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
                f"milestones, factor: got {list(milestones)} and {factor}; wanted lengths in "
                f"ascending order, and a factor above 0 and at most 1."
            )
        start = _warmup_steps(warmup, total_steps, epoch_steps, unit)
        falls = [_steps(length, total_steps, epoch_steps, unit) for length in milestones]

        def stairs(step: int) -> float:
            return float(factor ** sum(step >= fall for fall in falls))

        super().__init__(optimizer, _after_warmup(start, stairs))


def _after_warmup(start: int, after: Callable[[int], float]) -> Callable[[int], float]:
    return lambda step: (step + 1) / (start + 1) if step < start else after(step)


def _progress(step: int, start: int, total_steps: int) -> float:
    """How much of what follows the warm-up is done, in [0, 1]."""
    return min(1.0, (step - start) / max(1, total_steps - start))


def _steps(length: float, total_steps: int, epoch_steps: int, unit: Unit) -> int:
    return round(length * {"share": total_steps, "steps": 1, "epochs": epoch_steps}[unit])


def _warmup_steps(warmup: float, total_steps: int, epoch_steps: int, unit: Unit) -> int:
    if warmup < 0 or (unit == "share" and warmup >= 1):
        raise ValueError(f"warmup: got {warmup}; wanted 0 or more {unit}, a share below 1.")
    return _steps(warmup, total_steps, epoch_steps, unit)


def _check_final(final: float) -> None:
    if not 0 <= final <= 1:
        raise ValueError(f"final: got {final}; wanted a share between 0 and 1.")
