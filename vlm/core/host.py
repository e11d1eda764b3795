"""Read a device's numbers without stopping it."""

from __future__ import annotations

import torch
from torch import Tensor


class HostCopy:
    """Copies of tensors on the CPU, made while the device goes on with its work.

    `Tensor.tolist` waits until the device has done all that it was given. Here only `read` waits,
    and no longer than until the copy is there: read it once the device has its next work.

    Args:
        values: tensors of one device; those of the CPU are not copied.

    Example:
        >>> from vlm.core.host import HostCopy
        >>> copy = HostCopy(torch.tensor([1.0, 2.0]), torch.tensor(3))
        >>> copy.read()
        (tensor([1., 2.]), tensor(3))
    """

    def __init__(self, *values: Tensor) -> None:
        # torch puts what it copies without blocking into pinned memory.
        self._copies = tuple(value.detach().to("cpu", non_blocking=True) for value in values)
        self._done: torch.Event | None = None
        if values and values[0].device.type != "cpu":
            self._done = torch.Event(values[0].device)
            self._done.record()

    def read(self) -> tuple[Tensor, ...]:
        """The copies, once they are complete."""
        if self._done is not None:
            self._done.synchronize()
        return self._copies
