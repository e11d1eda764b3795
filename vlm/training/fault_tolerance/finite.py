"""Find numbers that are not finite, with the questions that caused them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from vlm.core.compat import tree_map_only
from vlm.core.finite import named, not_finite
from vlm.core.host import HostCopy

SKIPPED = 20
"""Overflows in a row that mixed precision may skip. The scaler starts at 2^16 and halves, so that
after 16 of them it is no longer the scale that is too large."""


class Problems(NamedTuple):
    """What is wrong with a batch, or None, and where in the training the batch was."""

    loss: str | None
    gradient: str | None
    place: str


NO_PROBLEMS = Problems(None, None, "")


class FiniteCheck:
    """Checks the loss and the gradients of each batch while the next one is computed.

    Args:
        scaled: whether a gradient scaler skips steps that overflow, as for fp16. Then `SKIPPED`
            bad steps in a row are an error; otherwise the first is, as it changes the weights.
    """

    def __init__(self, scaled: bool) -> None:
        self.allowed = SKIPPED if scaled else 1
        self._norm: Tensor | None = None
        self._overflows = 0
        self._batch: tuple[HostCopy, Any, Sequence[str], str] | None = None

    def gradients(self, parameters: Iterable[Tensor]) -> None:
        """Take the norm of the gradients before an optimiser step."""
        # Only the local shard, which may be empty: processes combine their results later.
        gradients = [p.grad for p in parameters if p.grad is not None]
        local = [g.to_local() if isinstance(g, DTensor) else g for g in gradients]
        local = [gradient for gradient in local if gradient.numel()]
        self._norm = torch.nn.utils.get_total_norm(local) if local else None

    def finish(self, loss: Tensor, output: Any, ids: Sequence[str], place: str) -> None:
        """Take the numbers of a finished batch, for `problems`."""
        norm, self._norm = self._norm, None
        numbers = [loss.detach().float(), *([] if norm is None else [norm.float()])]
        output = tree_map_only(Tensor, Tensor.detach, output)
        self._batch = HostCopy(torch.stack(numbers)), output, ids, place

    def problems(self) -> Problems:
        """Describe the last finished batch; nothing is wrong with one that was described before."""
        if self._batch is None:
            return NO_PROBLEMS
        (numbers, output, ids, place), self._batch = self._batch, None
        of_loss, *of_gradients = numbers.read()[0].tolist()
        for value in of_gradients:
            self._overflows = 0 if math.isfinite(value) else self._overflows + 1
        bad_loss = bad_gradient = None
        if not math.isfinite(of_loss):
            bad_loss = f"the loss is {of_loss}: {named(not_finite(output, ids) or list(ids))}"
        if self._overflows >= self.allowed:
            steps = f", {self.allowed} steps running" if self.allowed > 1 else ""
            bad_gradient = f"gradients are not finite{steps}; the last batch has {named(ids)}"
        return Problems(bad_loss, bad_gradient, place)
