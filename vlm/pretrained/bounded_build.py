"""Build a stored model with no more memory than its weights can fill."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vlm.core.compat import dispatch_mode, is_view, tree_flatten, tree_map_only

SPARE = 600_000_000
"""Extra bytes, for one image and for layers that are removed after a model is built."""
TIMES = 4
"""Bytes for each of the weights': filling a layer at random makes more tensors of its size."""


class Sparing(dispatch_mode()):  # type: ignore[misc]
    """Inside, a tensor larger than the remaining bytes of the stored weights is refused, with a
    MemoryError, before it is made.

    Each operation first runs without memory, on the device "meta". New tensors (not those computed
    from others) use up the remaining bytes.
    """

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.held = sum(value.nbytes for value in weights.values())
        self.bytes = TIMES * self.held + SPARE
        self.calls = 2_000 + 20 * len(weights)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # its import would take seconds; nothing is compiled here

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not is_view(func):
            size = _size(func, args, kwargs)
            self.calls -= 1
            if size > self.bytes or self.calls < 0:
                raise MemoryError(
                    f"the configuration describes a model that its weights ({self.held:,} bytes) "
                    f"cannot fill; expected the layers and sizes that were trained. If you trust "
                    "the origin of this file, use --trust (trust=True in Python)."
                )
            if not any(isinstance(item, Tensor) for item in tree_flatten((args, kwargs))[0]):
                self.bytes -= size
        return func(*args, **kwargs)


def _size(func: Any, args: Any, kwargs: dict[str, Any]) -> int:
    if "device" in kwargs:
        kwargs = kwargs | {"device": "meta"}
    try:
        args, kwargs = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))
        results = func(*args, **kwargs)
    except (RuntimeError, NotImplementedError):
        return 0  # the operation reads a value, which "meta" has not
    return sum(item.nbytes for item in tree_flatten(results)[0] if isinstance(item, Tensor))
