"""Learning-rate schedules compared with values calculated by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from vlm.training import WarmupCosine, WarmupLinear, WarmupSteps


def rates(schedule: type, steps: int, epoch_steps: int, **arguments: Any) -> list[float]:
    """Learning rates of `steps` steps with peak 1, also checking a group with a tenth of that."""
    optimizer = torch.optim.SGD(
        [{"params": nn.Linear(2, 3).parameters()}, {"params": nn.Linear(2, 3).parameters()}], lr=1.0
    )
    optimizer.param_groups[1]["lr"] = 0.1
    made = schedule(optimizer, steps, epoch_steps, **arguments)
    found = []
    for _ in range(steps):
        first, second = (group["lr"] for group in optimizer.param_groups)
        assert second == pytest.approx(first / 10)
        found.append(first)
        optimizer.step()
        made.step()
    return found


CASES = {
    "cosine, a share": (
        WarmupCosine,
        {"warmup": 0.25, "final": 0.2},
        [1 / 3, 2 / 3, 1, None, None, 0.6],
    ),
    "cosine, steps": (WarmupCosine, {"warmup": 1, "unit": "steps"}, [1 / 2, 1]),
    "linear, epochs": (
        WarmupLinear,
        {"warmup": 1, "unit": "epochs"},
        [1 / 3, 2 / 3, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6],
    ),
    "steps, epochs": (
        WarmupSteps,
        {"warmup": 0.5, "milestones": [1, 3], "factor": 0.5},
        [1 / 2, 1, 1 / 2, 1 / 2, 1 / 2, 1 / 2, 1 / 4, 1 / 4],
    ),
    "steps, steps": (
        WarmupSteps,
        {"milestones": [1, 5, 100], "factor": 0.1, "unit": "steps"},
        [1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01],
    ),
    "constant": (WarmupSteps, {}, [1.0] * 8),
}


@pytest.mark.parametrize("name", CASES)
def test_rates(name: str) -> None:
    """Every schedule gives the expected rates over 8 steps, with 2 steps per epoch."""
    schedule, arguments, wanted = CASES[name]
    for got, want in zip(rates(schedule, 8, 2, **arguments), wanted, strict=False):
        if want is not None:
            assert got == pytest.approx(want)


@pytest.mark.parametrize(
    ("schedule", "arguments", "message"),
    [
        (
            WarmupCosine,
            {"warmup": 1.0},
            "warmup: got 1.0; expected 0 or more share, a share below 1",
        ),
        (WarmupLinear, {"warmup": -1, "unit": "steps"}, "warmup: got -1"),
        (WarmupCosine, {"final": 2}, "final: got 2; expected a share between 0 and 1"),
        (WarmupSteps, {"milestones": [3, 1]}, r"milestones, factor: got \[3, 1\]"),
        (WarmupSteps, {"factor": 0}, "milestones, factor: .* and 0"),
    ],
)
def test_mistakes(schedule: type, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rates(schedule, 8, 2, **arguments)
