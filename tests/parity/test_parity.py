"""Every operator equals its authors' implementation on copied parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from convert_ban import CONVERTERS as BAN
from convert_merges import CONVERTERS as MERGES
from convert_mfb import CONVERTERS as MFB
from convert_modality import CONVERTERS as MODALITY
from convert_murel import CONVERTERS as MUREL
from convert_queries import CONVERTERS as QUERIES
from convert_transformers import CONVERTERS as TRANSFORMERS
from golden import FOLDER, Converter, Tensors, read
from torch import Tensor

CONVERTERS: dict[str, Converter] = {
    **BAN,
    **MERGES,
    **MFB,
    **MODALITY,
    **MUREL,
    **QUERIES,
    **TRANSFORMERS,
}

FILES = sorted(FOLDER.glob("*.safetensors"))


def run(
    path: Path, dtype: torch.dtype, converters: dict[str, Converter] = CONVERTERS
) -> tuple[Tensors, Tensors, Tensors, Tensors]:
    """Return our outputs and input gradients, and the reference's."""
    golden = read(path)
    with default_dtype(torch.float64):
        converted = converters[golden.operator](golden)
    converted.module.to(dtype).eval()
    inputs = {name: cast(value, dtype) for name, value in golden.inputs.items()}
    for name in golden.gradients:
        inputs[name].requires_grad_()
    outputs = converted.run(inputs)
    missing = golden.cotangents.keys() - outputs.keys()
    assert not missing, f"the converter gives no {missing}"
    if golden.cotangents:
        loss = sum((outputs[n] * cast(c, dtype)).sum() for n, c in golden.cotangents.items())
        loss.backward()
    gradients = {name: inputs[name].grad for name in golden.gradients}
    return outputs, golden.outputs, gradients, golden.gradients


def cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.detach().clone().to(dtype) if value.is_floating_point() else value


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def test_every_file_has_a_converter() -> None:
    without = {path.stem for path in FILES if path.stem.partition("__")[0] not in CONVERTERS}
    assert FILES
    assert not without


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_float64(path: Path) -> None:
    ours, theirs, our_gradients, their_gradients = run(path, torch.float64)
    for name, got in ours.items():
        torch.testing.assert_close(got, theirs[name], rtol=1e-9, atol=1e-10)
    for name, got in our_gradients.items():
        torch.testing.assert_close(got, their_gradients[name], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_float32(path: Path) -> None:
    ours, theirs, our_gradients, their_gradients = run(path, torch.float32)
    for name, got in ours.items():
        torch.testing.assert_close(got, theirs[name].float(), rtol=1e-4, atol=1e-4)
    for name, got in our_gradients.items():
        torch.testing.assert_close(got, their_gradients[name].float(), rtol=5e-3, atol=5e-3)
