"""Elementwise functions of the merges: activations and the normalisation of bilinear features."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Activation = Literal["identity", "relu", "tanh", "gelu", "elu"]
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "identity": nn.Identity,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "elu": nn.ELU,
}


def activation_module(argument: str, name: str) -> nn.Module:
    """The activation called `name`; the error names the constructor's argument."""
    if name not in ACTIVATIONS:
        raise ValueError(f"{argument}: got {name!r}; wanted one of {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]()


def power_normalize(z: Tensor) -> Tensor:
    """Signed square root, then L2 normalisation of the last axis (arXiv 1606.01847, section 3.1).

    sign(z) sqrt|z| / ||sqrt|z|||, where the norm is the square root of sum |z|. Below 1e-12 (in
    float16 6.1e-5, its smallest normal number) both roots are replaced by their chords, so that
    the gradient at zero is finite: rectified factors make exact zeros, where the plain formula
    gives NaN. A vector of zeros stays one and passes no gradient on.
    """
    least = torch.finfo(torch.float16).tiny if z.dtype == torch.float16 else 1e-12
    wide = z.float() if z.dtype == torch.float16 else z
    size = wide.abs()
    total = size.sum(-1, keepdim=True)
    roots = size.clamp(min=least).rsqrt() * total.clamp(min=least).rsqrt()
    return (wide * roots.masked_fill(total == 0, 0)).to(z.dtype)


def sum_of_products(x: Tensor, y: Tensor) -> Tensor:
    """sum_r x[..., r, d] y[..., r, d]: (..., R, D), (..., R, D) -> (..., D), broadcasting."""
    sizes = list(zip(x.shape, y.shape, strict=False))
    if any(a == 1 < b for a, b in sizes) and any(b == 1 < a for a, b in sizes):
        # All pairs of two sets: a matrix product instead of a large tensor and its sum.
        return torch.einsum("...rd,...rd->...d", x, y)
    return (x * y).sum(-2)
