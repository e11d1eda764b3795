"""Learning-rate schedules that know how long training will be."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class WarmupCosine(LambdaLR):
    """Linear warm-up, then half a cosine down; stepped after every batch.

    Args:
        optimizer: whose learning rate is the peak.
        total_steps: optimiser steps of the whole training.
        warmup: share of the steps spent warming up, in [0, 1).
        final: learning rate at the end as a share of the peak, in [0, 1].
    """

    def __init__(
        self, optimizer: Optimizer, total_steps: int, warmup: float = 0.1, final: float = 0.0
    ) -> None:
        if not 0 <= warmup < 1 or not 0 <= final <= 1:
            raise ValueError(
                f"warmup, final: got {warmup} and {final}; wanted shares, warmup below 1."
            )
        warmup_steps = round(warmup * total_steps)

        def factor(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / (warmup_steps + 1)
            progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
            return final + (1 - final) * (1 + math.cos(math.pi * min(1.0, progress))) / 2

        super().__init__(optimizer, factor)
