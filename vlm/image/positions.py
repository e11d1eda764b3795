"""Positions: where each token lies, mixed into what it holds."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from vlm.core.features import Features
from vlm.image.grid import summary

PositionKind = Literal["auto", "sine", "learned", "coordinates", "none"]
PREFIX = "positions."
"""What the names of their parameters begin with."""
_WIDTHS = {"sine": 32, "learned": 32, "coordinates": 4}
_NAMES = ("pos_embed", "positional", "relative_position", "rel_pos", "rope")
"""What image models call the positions of their own."""


class Positions(nn.Module):
    """Mixes the place of each token into it, with a small network that starts as the identity.

        x <- x + (W2 ReLU(W1 [x, place] + b1) + b2) / sqrt(H)        # W2 and b2 are zeros at first

    H is the network's hidden width. Without the division, Adam's first steps change all tokens so
    much that training sometimes fails, even if no question is about places (docs/log.md,
    2026-11-30).

    A sum alone is not enough: a fusion that pools over the tokens would keep *that* something is
    red and *that* something is on the left, but not that the red object is on the left. After a
    nonlinear layer, a channel can hold both together.

    Args:
        dim: width of the tokens.
        kind: content of `place`. "sine": sine and cosine of 2^k c pi / 2, k = 0 - 3, of each number
            c of a box, its centre (-1 to 1) and size (0 to 2; as NeRF, arXiv 2003.08934, equation
            4); "coordinates": these four numbers (as CoordConv, arXiv 1807.03247, which has the
            centres); "learned": a vector for each cell of the grid (as ViT, arXiv 2010.11929).
        pool: how `pooled` is made from the tokens, "mean" or "max".
        grid: rows and columns of the tokens; None for regions.
        hidden_dim: hidden width of the network.

    Raises:
        ValueError: an unknown kind, or learned positions without a grid.

    Example:
        >>> encoder = vlm.image.ConvNet(image_size=64, positions="learned")
        >>> encoder.positions.place.shape
        torch.Size([16, 32])
    """

    def __init__(
        self,
        dim: int,
        kind: Literal["sine", "learned", "coordinates"],
        pool: str,
        grid: tuple[int, int] | None = None,
        hidden_dim: int = 64,
    ) -> None:
        super().__init__()
        if kind not in _WIDTHS:
            expected = ", ".join(get_args(PositionKind))
            raise ValueError(f"positions: got {kind!r}; expected one of {expected}.")
        width = _WIDTHS[kind]
        self.kind, self.pool = kind, pool
        self.place: Tensor | None = None
        if kind == "learned":
            if grid is None:
                raise ValueError(
                    "positions: got 'learned', which needs one grid for all images, and this "
                    "encoder has none; expected 'sine', 'coordinates' or 'none'."
                )
            self.place = nn.Parameter(torch.randn(grid[0] * grid[1], width))
        self.inner = nn.Linear(dim + width, hidden_dim)
        self.outer = nn.Linear(hidden_dim, dim)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, features: Features) -> Features:
        """Features (B, N, D) with boxes (B, N, 4) -> the same with other tokens and `pooled`."""
        tokens, mask, _, boxes = features
        assert boxes is not None
        place = (
            self.codes(boxes) if self.place is None else self.place.expand(tokens.shape[0], -1, -1)
        )
        hidden = self.inner(torch.cat((tokens, place.to(tokens.dtype)), -1)).relu()
        tokens = tokens + self.outer(hidden) * self.outer.in_features**-0.5
        return Features(tokens, mask, summary(tokens, mask, self.pool), boxes)

    def codes(self, boxes: Tensor) -> Tensor:
        """Boxes (B, N, 4), x0, y0, x1, y1 in [0, 1] -> (B, N, 4 or 32)."""
        low, high = boxes[..., :2], boxes[..., 2:]
        numbers = torch.cat((low + high - 1, 2 * (high - low)), -1)
        if self.kind == "coordinates":
            return numbers
        octaves = 2.0 ** torch.arange(4, device=boxes.device) * (math.pi / 2)
        angles = (numbers[..., None] * octaves).flatten(-2)
        return torch.cat((angles.sin(), angles.cos()), -1)


def make_positions(
    kind: PositionKind,
    dim: int,
    pool: str,
    grid: tuple[int, int] | None = None,
    model: nn.Module | None = None,
) -> Positions | None:
    """The positions that an encoder asks for; None if it wants none, or under "auto" if its
    model has some.

    Raises:
        ValueError: an unknown kind, or learned positions without a grid.
    """
    if kind == "auto":
        kind = "none" if model is not None and has_positions(model) else "sine"
    return None if kind == "none" else Positions(dim, kind, pool, grid)


def has_positions(model: nn.Module) -> bool:
    """Whether an image model knows where its tokens lie, by the names of what it holds."""
    held = (*model.named_parameters(), *model.named_buffers(), *model.named_modules())
    return any(part in name for name, _ in held for part in _NAMES)
