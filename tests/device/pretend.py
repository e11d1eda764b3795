"""A pretended GPU: tensors that compute on the CPU, refuse what CUDA refuses, and count what waits.

It is torch's PrivateUse1 with wrapper tensors, so a process that imports this has no other backend
there. It shows tensors of two devices in one operation, and the places where the host waits for the
device; kernels, their numbers and their speed it does not show.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

ROOT = Path(__file__).parents[2]
aten = torch.ops.aten


class Backend(backend_registration._DummyBackendModule):
    """What torch asks of a backend's module."""

    def manual_seed(self, seed: int) -> None:
        pass

    def get_rng_state(self, device: Any = 0) -> Tensor:
        return torch.empty(0, dtype=torch.uint8)

    def set_rng_state(self, state: Tensor, device: Any = 0) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


backend_registration._setup_privateuseone_for_python_backend("pretend", Backend())
DEVICE = torch.device("pretend", 0)
# Autocast itself is tested on fake tensors, with CUDA's own rules (test_cuda_autocast.py).
AUTOCAST = torch.library.Library("_", "IMPL")
AUTOCAST.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")

waits: list[str] = []
"""Where the host waited for the device, in order; tests clear it."""


class MixedDevices(RuntimeError):
    """An operation on tensors of two devices, which CUDA refuses."""


def waited(why: str) -> None:
    """Note the innermost line of ours, or else of another library, that waits."""
    frames = [f for f in reversed(traceback.extract_stack()) if f.filename != __file__]
    ours = [f for f in frames if f.filename.startswith(str(ROOT / "vlm"))]
    theirs = [f for f in frames if "site-packages" in f.filename and "/torch/" not in f.filename]
    place = [*ours, *theirs, frames[0]][0]
    waits.append(f"{why} at {place.filename.removeprefix(str(ROOT))}:{place.lineno}")


class OnDevice(Tensor):
    """A tensor of the pretended device; `held` has its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, real: Tensor) -> OnDevice:
        made: OnDevice = Tensor._make_wrapper_subclass(
            cls,
            real.size(),
            strides=real.stride(),
            storage_offset=real.storage_offset(),
            dtype=real.dtype,
            device=DEVICE,
        )
        made.held = real
        return made

    def __repr__(self) -> str:
        return f"OnDevice({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


# The size of their result, or the result itself, depends on values.
WAITING = {
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.repeat_interleave.Tensor,
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.bincount.default,
}
INDEXING = {
    aten.index.Tensor,
    aten._unsafe_index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}
COPIES = {aten._to_copy.default, aten.copy_.default}
# Elsewhere a tensor of the CPU without dimensions is taken for a number.
NO_NUMBERS = {
    aten.cat.default,
    aten.stack.default,
    aten.mm.default,
    aten.bmm.default,
    aten.addmm.default,
    aten.gather.default,
    aten.index_select.default,
    aten.embedding.default,
    aten.index_add.default,
    aten.scatter.src,
}


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation: what CUDA would say of it, and its result."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, OnDevice)]
    here = [tensor for tensor in tensors if not isinstance(tensor, OnDevice)]
    asked = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
    if there and func in INDEXING:
        if not isinstance(args[0], OnDevice):
            raise MixedDevices(f"{func}: indices on the device, the indexed tensor on the CPU")
        if any(index is not None and index.dtype == torch.bool for index in args[1]):
            waited("a mask as an index")
    elif there and func not in COPIES:
        if any(tensor.ndim or func in NO_NUMBERS for tensor in here):
            raise MixedDevices(f"{func}: {[(str(t.device), tuple(t.shape)) for t in tensors]}")
        if func in WAITING:
            waited(func.name())
    comes_back = bool(there) if asked is None else asked.type == DEVICE.type
    if func is aten._to_copy.default and there and not comes_back:
        if not kwargs.get("non_blocking"):
            waited("a copy to the CPU")
    elif func is aten.copy_.default:
        comes_back = isinstance(args[0], OnDevice)
        if there and not comes_back and not (args[2:] and args[2]):
            waited("a copy to the CPU")
    elif func is aten._local_scalar_dense.default:
        comes_back = False
    if asked is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    kwargs.pop("pin_memory", None)
    real_args, real_kwargs = tree_map_only(OnDevice, lambda x: x.held, (args, kwargs))
    result = func(*real_args, **real_kwargs)
    if not comes_back:
        return result
    known = {id(tensor.held): tensor for tensor in there}  # what is changed in place

    def back(tensor: Tensor) -> Tensor:
        if isinstance(tensor, OnDevice):
            return tensor
        return known[id(tensor)] if id(tensor) in known else OnDevice(tensor)

    return tree_map_only(Tensor, back, result)


class Operations(TorchDispatchMode):
    """Catches what makes or moves tensors: no tensor of the device is among the arguments."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, dict(kwargs or {}))


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """torch has its kernels of scaled dot-product attention for known backends alone."""
    if enable_gqa:
        times = query.shape[-3] // key.shape[-3]
        key, value = (x.repeat_interleave(times, -3) for x in (key, value))
    logits = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if attn_mask is None:
        shares = logits.softmax(-1)
    elif attn_mask.dtype == torch.bool:
        lowest = torch.finfo(logits.dtype).min
        shares = logits.masked_fill(~attn_mask, lowest).softmax(-1).masked_fill(~attn_mask, 0)
    else:
        shares = (logits + attn_mask).softmax(-1)
    return F.dropout(shares, dropout_p) @ value


def gru(x: Tensor, state: Tensor, weights: Any, *_: Any) -> tuple[Tensor, Tensor]:
    """One direction of one layer, batch first."""
    hidden, steps = state[0], []
    for now in x.unbind(1):
        new = F.linear(now, weights[0], weights[2]).chunk(3, 1)
        old = F.linear(hidden, weights[1], weights[3]).chunk(3, 1)
        reset, update = (new[0] + old[0]).sigmoid(), (new[1] + old[1]).sigmoid()
        hidden = (1 - update) * (new[2] + reset * old[2]).tanh() + update * hidden
        steps.append(hidden)
    return torch.stack(steps, 1), hidden[None]


def lstm(x: Tensor, state: Any, weights: Any, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    """One direction of one layer, batch first."""
    (hidden, cell), steps = (s[0] for s in state), []
    for now in x.unbind(1):
        both = F.linear(now, weights[0], weights[2]) + F.linear(hidden, weights[1], weights[3])
        first, forget, candidate, out = both.chunk(4, 1)
        cell = forget.sigmoid() * cell + first.sigmoid() * candidate.tanh()
        hidden = out.sigmoid() * cell.tanh()
        steps.append(hidden)
    return torch.stack(steps, 1), hidden[None], cell[None]


def moved(value: Any, dtype: torch.dtype | None = None) -> OnDevice:
    return OnDevice(torch.tensor(value, dtype=dtype))


class Functions(TorchFunctionMode):
    """Catches what never reaches the dispatcher, or what it has no kernel of ours for."""

    own: ClassVar = {
        F.scaled_dot_product_attention: attention,
        torch.gru: gru,
        torch.lstm: lstm,
    }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        first = args[0] if args else None
        asked = torch.device(kwargs.get("device") or "cpu")
        if func in (torch.tensor, torch.as_tensor) and asked.type == DEVICE.type:
            return moved(first, kwargs.get("dtype"))
        if not isinstance(first, OnDevice):
            return func(*args, **kwargs)
        if func in self.own:
            return self.own[func](*args, **kwargs)
        if func is Tensor.new_tensor:
            return moved(args[1], kwargs.get("dtype", first.dtype))
        if func is Tensor.tolist:
            waited("tolist")
            return first.held.tolist()
        return func(*args, **kwargs)


class Event:
    """`torch.Event` of the pretended device, which waits as soon as it is asked to."""

    def __init__(self, device: Any = None) -> None:
        assert torch.device(device).type == DEVICE.type

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        waited("an event")


@contextmanager
def pretended() -> Iterator[None]:
    """Inside, the device is there."""
    mode = torch.autograd.grad_mode.inference_mode  # in which there are no wrappers

    def enter(self: Any) -> None:
        self.instead = torch.no_grad() if self.mode else torch.enable_grad()
        self.instead.__enter__()

    def leave(self: Any, *error: Any) -> None:
        self.instead.__exit__(*error)

    with ExitStack() as stack:
        stack.enter_context(patch.object(mode, "__enter__", enter))
        stack.enter_context(patch.object(mode, "__exit__", leave))
        stack.enter_context(patch("torch.Event", Event))
        stack.enter_context(Functions())
        stack.enter_context(Operations())
        waits.clear()
        yield


def on_device(value: Any) -> Any:
    """A module, or tensors in containers, on the device."""
    if not isinstance(value, nn.Module):
        return tree_map_only(Tensor, lambda tensor: OnDevice(tensor.detach().clone()), value)
    for module in value.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                there = nn.Parameter(OnDevice(parameter.detach()), parameter.requires_grad)
                module._parameters[name] = there
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = OnDevice(buffer)
    return value


def on_cpu(value: Any) -> Any:
    return tree_map_only(OnDevice, lambda tensor: tensor.held.detach(), value)
