"""Elementwise functions of the merges: activations and the normalisation of bilinear features."""

from __future__ import annotations

from typing import Any, Literal

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


def broadcast_product(x: Tensor, y: Tensor) -> Tensor:
    """x * y with broadcasting, lighter in the backward pass.

    The plain product's gradient for a factor that was broadcast (one question for all patches) is
    made for every patch and then summed: a further tensor as large as the product. Here it is
    summed a slice at a time.
    """
    return _BroadcastProduct.apply(x, y)


class _BroadcastProduct(torch.autograd.Function):
    generate_vmap_rule = True  # torch.func needs this and `setup_context`

    @staticmethod
    def forward(x: Tensor, y: Tensor) -> Tensor:
        return x * y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, y = ctx.saved_tensors
        x_needs_grad, y_needs_grad = ctx.needs_input_grad
        # The small one first: what it needs is gone when the large one comes.
        grad_y = _product_like(grad, x, y) if y_needs_grad else None
        return _product_like(grad, y, x) if x_needs_grad else None, grad_y


SLICES = 8


def _product_like(grad: Tensor, other: Tensor, target: Tensor) -> Tensor:
    """grad * other, summed to the target's shape."""
    shape = (1,) * (grad.ndim - target.ndim) + tuple(target.shape)
    if axes := [axis for axis in range(grad.ndim) if shape[axis] != grad.shape[axis]]:
        size = max(1, -(-grad.shape[axes[0]] // SLICES))
        other = other.expand_as(grad)
        parts = zip(grad.split(size, axes[0]), other.split(size, axes[0]), strict=True)
        sums = torch.stack([(g * o).sum(axes, keepdim=True) for g, o in parts])
        return sums.sum(0).reshape(target.shape)
    return (grad * other).reshape(target.shape)


def sum_of_products(x: Tensor, y: Tensor) -> Tensor:
    """sum_r x[..., r, d] y[..., r, d]: (..., R, D), (..., R, D) -> (..., D), broadcasting."""
    sizes = list(zip(x.shape, y.shape, strict=False))
    if any(a == 1 < b for a, b in sizes) and any(b == 1 < a for a, b in sizes):
        # All pairs of two sets: a matrix product instead of a large tensor and its sum.
        return torch.einsum("...rd,...rd->...d", x, y)
    return (x * y).sum(-2)
