"""Find numbers that are not finite at once, with the questions that caused them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from vlm.core.finite import named, not_finite

SKIPPED = 20
"""Overflows in a row that mixed precision may skip. The scaler starts at 2^16 and halves, so that
after 16 of them it is no longer the scale that is too large."""


class FiniteCheck:
    """Checks the loss and the gradients, with one transfer from the device per step.

    Args:
        scaled: whether a gradient scaler skips steps that overflow, as for fp16. Then `SKIPPED`
            bad steps in a row are an error; otherwise the first is, as it changes the weights.
    """

    def __init__(self, scaled: bool) -> None:
        self.allowed = SKIPPED if scaled else 1
        self._norm: Tensor | None = None
        self._overflows = 0

    def gradients(self, parameters: Iterable[Tensor]) -> None:
        """Check the gradients before an optimiser step."""
        # Only the local shard, which may be empty: processes combine their results later.
        gradients = [p.grad for p in parameters if p.grad is not None]
        local = [g.to_local() if isinstance(g, DTensor) else g for g in gradients]
        local = [gradient for gradient in local if gradient.numel()]
        self._norm = torch.nn.utils.get_total_norm(local) if local else None

    def problems(
        self, loss: Tensor, output: Any, ids: Sequence[str]
    ) -> tuple[str | None, str | None]:
        """Describe problems with the finished batch's loss and gradients, or None."""
        norm, self._norm = self._norm, None
        numbers = [loss.detach().float(), *([] if norm is None else [norm.float()])]
        of_loss, *of_gradients = torch.stack(numbers).tolist()
        for value in of_gradients:
            self._overflows = 0 if math.isfinite(value) else self._overflows + 1
        bad_loss = bad_gradient = None
        if not math.isfinite(of_loss):
            bad_loss = f"the loss is {of_loss}: {named(not_finite(output, ids) or list(ids))}"
        if self._overflows >= self.allowed:
            steps = f", {self.allowed} steps running" if self.allowed > 1 else ""
            bad_gradient = f"gradients are not finite{steps}; the last batch has {named(ids)}"
        return bad_loss, bad_gradient
