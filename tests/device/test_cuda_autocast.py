"""Data types under CUDA's own autocast, on fake tensors: no operation meets two of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from contract.encoder_parts import IMAGE_ENCODERS, TEXT_ENCODERS
from contract.fusion_parts import FUSIONS, MERGES
from contract.test_parts import ANSWERS, HEADS, cases
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from vlm.core.features import Features
from vlm.fusion import Fusion, Merge
from vlm.heads import AnswerHead
from vlm.image import ImageEncoder, Tiles
from vlm.testing.fusions import some_features
from vlm.testing.heads import _Check
from vlm.text import TextEncoder

HALF = (torch.float16, torch.bfloat16)


class Kernels(TorchFunctionMode):
    """What asks a real GPU which kernel to take: attention and recurrent layers."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, half = kwargs or {}, torch.get_autocast_dtype("cuda")
        if func is F.scaled_dot_product_attention:
            query, key, value = (tensor.to(half) for tensor in args[:3])  # on autocast's list
            return (query @ key.mT).softmax(-1).to(half) @ value
        if func in (torch.gru, torch.lstm):
            x, state = args[0].to(half), args[1]
            states = [state] if isinstance(state, Tensor) else state
            width = args[2][1].shape[1]
            return x.new_zeros(*x.shape[:2], width), *(s.to(half) for s in states)
        return func(*args, **kwargs)


@contextmanager
def autocast(half: torch.dtype) -> Iterator[None]:
    """`torch.autocast("cuda")`, which turns itself off where there is no GPU."""
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", half)
    torch.set_autocast_cache_enabled(False)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        torch.autocast_decrement_nesting()
        torch.set_autocast_enabled("cuda", False)
        torch.set_autocast_cache_enabled(True)


class Fake:
    """Tensors of a GPU that is not there: they have types and shapes, and no values."""

    def __init__(self) -> None:
        self.mode = FakeTensorMode()

    def __call__(self, value: Any) -> Any:
        if not isinstance(value, nn.Module):
            return tree_map_only(Tensor, self.tensor, value)
        for module in value.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = nn.Parameter(self.tensor(parameter), False)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = self.tensor(buffer)
        return value

    def tensor(self, tensor: Tensor) -> Tensor:
        plain = self.mode.from_tensor(tensor.detach().clone())
        with self.mode:
            return plain.to("cuda")


def in_half(value: Any, half: torch.dtype) -> Any:
    """As another part under autocast gives it."""
    return tree_map_only(Tensor, lambda t: t.to(half) if t.is_floating_point() else t, value)


def check(part: nn.Module, run: Callable[..., Any], *inputs: Any) -> None:
    """Run a part in both half precisions, on inputs in float32 and in half, and on a mixture."""
    fake = Fake()
    fake(part.train())
    given = [fake(value) for value in inputs]
    for half in HALF:
        with fake.mode, torch.no_grad(), Kernels(), autocast(half):
            halves = [in_half(value, half) for value in given]
            for case in (given, halves, [halves[0], *given[1:]], [given[0], *halves[1:]]):
                output = run(*case)
                assert all(x.device.type == "cuda" for x in tree_leaves(output) if is_tensor(x))


def is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


@pytest.mark.parametrize("make", cases(MERGES))
def test_merge(make: Callable[[], Merge]) -> None:
    merge = make()
    check(merge, merge, torch.randn(3, 5, merge.x_dim), torch.randn(3, 1, merge.y_dim))


@pytest.mark.parametrize("make", cases(FUSIONS))
def test_fusion(make: Callable[[], Fusion]) -> None:
    fusion = make()
    image = some_features(fusion.image_dim, (7, 3, 1, 0), 7, boxes=True)
    check(fusion, fusion, image, some_features(fusion.text_dim, (5, 2, 1, 0), 5))


# Tiles waits for the number of tiles that are no padding.
WITHOUT_WAITING = {k: v for k, v in IMAGE_ENCODERS.items() if k is not Tiles}


@pytest.mark.parametrize("make", cases(WITHOUT_WAITING))
def test_image_encoder(make: Callable[[], ImageEncoder]) -> None:
    encoder = make()
    if hasattr(encoder.transform, "shape"):
        images: Any = torch.randint(0, 255, (2, *encoder.transform.shape), dtype=torch.uint8)
    else:
        images = some_features(encoder.dim, (4, 1), 4, boxes=True)
    check(encoder, encoder, images)


@pytest.mark.parametrize("make", cases(TEXT_ENCODERS))
def test_text_encoder(make: Callable[[Path], TextEncoder], tmp_path: Path) -> None:
    encoder = make(tmp_path)
    check(encoder, encoder, *encoder.tokenizer(["what colour is the circle", "circle", ""]))


@pytest.mark.parametrize("make", cases(HEADS))
def test_head(make: Callable[[], AnswerHead]) -> None:
    made = _Check(make().eval(), ANSWERS)
    head = made.head

    def loss(fused: Features, batch: Any) -> Tensor:
        value = head.loss(head(fused, batch), batch)
        assert value.dtype == torch.float32, "the loss keeps its range"
        return value

    check(head, loss, made.fused, made.whole)


class Mixed(nn.Module):
    """Goes from what autocast computed in half to float32, where there is no such kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.lerp(self.layer(x), y, 0.5)


def test_two_types_in_one_operation_are_found() -> None:
    mixed = Mixed()
    with pytest.raises(RuntimeError, match="expected dtype"):
        check(mixed, mixed, torch.randn(3), torch.randn(3))
