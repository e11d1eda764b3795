"""Several image encoders in one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlm.image.base import PixelEncoder
from vlm.image.grid import check_pool, rows_of, summary
from vlm.image.load import WhiteLevel
from vlm.image.positions import PREFIX, PositionKind, make_positions
from vlm.image.transform import Fit, ImageTransform


class SideBySide(PixelEncoder):
    """Several image encoders, whose tokens for the same place are concatenated.

    For example a network that knows objects beside one that knows words (DINOv2 and SigLIP as in
    Prismatic, arXiv 2402.07865, section 4.2), or a small CNN from scratch beside a frozen ViT.
    Each encoder sees the whole input at its own size. The tokens lie on the finest of the grids;
    those of a coarser grid are repeated.

    Args:
        encoders: two or more. Of their own transforms only the size counts, and their own
            positions are not used.
        frozen: for each encoder, whether it is never trained; None trains all of them.
            `model.tuning.image_encoder` applies to those that are left.
        fit: how an image comes to the input, which is as large as the largest of the encoders'.
            See `ImageTransform`.
        pool: `pooled` is the "mean" or the "max" of the tokens.
        white_level: white value of grey images of 16 bits or floats; see `ImageTransform`.
        positions: how tokens come to know their places, see `vlm.image.Positions`.

    Raises:
        ValueError: fewer than two encoders, one that does not read pixels, inputs of different
            aspects, or `frozen` of another length.

    Example:
        >>> coarse, fine = vlm.image.ConvNet(32), vlm.image.ConvNet(64, widths=(8, 16, 16))
        >>> encoder = vlm.image.SideBySide([coarse, fine], frozen=[True, False])
        >>> encoder(torch.rand(2, 3, 64, 64))
        Features(2 x 64 x 184, 64 real, boxes)
    """

    def __init__(
        self,
        encoders: Sequence[PixelEncoder],
        frozen: Sequence[bool] | None = None,
        fit: Fit = "squash",
        pool: Literal["mean", "max"] = "mean",
        white_level: WhiteLevel = None,
        positions: PositionKind = "sine",
    ) -> None:
        check_pool(pool)
        _check(encoders, frozen)
        transforms = [encoder.transform for encoder in encoders]
        size = max(transform.size for transform in transforms)
        super().__init__(
            dim=sum(encoder.dim for encoder in encoders),
            grid=max((encoder.grid for encoder in encoders), key=lambda g: g[0] * g[1]),
            transform=ImageTransform(size, transforms[0].interpolation, fit, 1.0, white_level),
            mean=(0.0, 0.0, 0.0),  # each encoder has its own
            std=(1.0, 1.0, 1.0),
        )
        self.encoders, self.pool = nn.ModuleList(encoders), pool
        for encoder, never in zip(encoders, frozen or [False] * len(encoders), strict=True):
            encoder.positions = None
            if never:
                encoder.requires_grad_(False)
        # Of the encoders themselves: one may have edited its arguments, to be rebuilt offline.
        self.arguments["encoders"] = list(encoders)
        self.positions = make_positions(positions, self.dim, pool, self.grid)

    def layer_names(self) -> list[list[str]]:
        """The encoders' layers side by side, counted from their outputs."""
        stacks = []
        for place, encoder in enumerate(self.encoders):
            assert isinstance(encoder, PixelEncoder)
            layers = encoder.layer_names()
            stacks.append([[f"encoders.{place}.{name}" for name in names] for names in layers])
        beside = zip_longest(*(stack[::-1] for stack in stacks), fillvalue=[])
        layers = [[name for names in found for name in names] for found in beside][::-1]
        layers[-1] += [name for name, _ in self.named_parameters() if name.startswith(PREFIX)]
        return layers

    def normalised(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Colours in [0, 1] and, as a fourth channel, 1 inside the image: each encoder has its own
        normalisation."""
        colours, mask = super().normalised(images)
        inside = images[:, 3:] > 0.5 if images.shape[1] == 4 else torch.ones_like(colours[:, :1])
        return torch.cat((colours, inside.to(colours.dtype)), 1), mask

    def encode(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        maps = []
        for encoder in self.encoders:
            assert isinstance(encoder, PixelEncoder)
            size, grid = encoder.transform.size, encoder.grid
            colours = (_resized(images[:, :3], size) - encoder.mean) / encoder.std
            inside = F.adaptive_max_pool2d(images[:, 3:], size)  # any pixel counts
            cells = F.adaptive_max_pool2d(images[:, 3:], grid).flatten(1) > 0
            tokens, _ = encoder.encode(colours * (inside > 0), cells)
            maps.append(F.adaptive_avg_pool2d(tokens.mT.unflatten(2, grid), self.grid))
        tokens = rows_of(torch.cat(maps, 1))
        return tokens, summary(tokens, mask, self.pool)


def _check(encoders: Sequence[PixelEncoder], frozen: Sequence[bool] | None) -> None:
    if len(encoders) < 2:
        raise ValueError(f"encoders: got {len(encoders)}; expected two or more.")
    for encoder in encoders:
        if not isinstance(encoder, PixelEncoder):
            raise ValueError(
                f"encoders: got {type(encoder).__name__}; expected encoders that read pixels."
            )
    aspects = {e.transform.size[0] / e.transform.size[1] for e in encoders}
    if len(aspects) > 1:
        sizes = ", ".join("{} x {}".format(*e.transform.size) for e in encoders)
        raise ValueError(
            f"encoders: got inputs of {sizes} pixels; expected one aspect, since all see the same "
            f"image. Set their image_size."
        )
    if frozen is not None and len(frozen) != len(encoders):
        raise ValueError(
            f"frozen: got {len(frozen)} values for {len(encoders)} encoders; expected one for each."
        )


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    if images.shape[2:] == size:
        return images
    return F.interpolate(images, size, mode="bilinear", antialias=True)
