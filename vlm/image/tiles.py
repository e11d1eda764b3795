"""Images as tiles at the encoder's own size, with a thumbnail of the whole."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import Literal

import torch
from torch import Tensor

from vlm.core.features import Features
from vlm.core.validation import check_positive
from vlm.image.base import PixelEncoder, grid_boxes
from vlm.image.canvas import CanvasTransform
from vlm.image.grid import summary
from vlm.image.load import WhiteLevel
from vlm.image.positions import PREFIX, PositionKind, make_positions
from vlm.image.transform import ImageTransform


@dataclass(frozen=True)
class TileTransform(CanvasTransform):
    """As large as the best grid of tiles allows, with the aspect kept.

    Args:
        tile: (height, width) of a tile in pixels.
        most: most tiles of an image.
    """

    tile: tuple[int, int] = (1, 1)
    most: int = 1

    @property
    def longest(self) -> int:
        """Most tiles on a side."""
        return self.size[0] // self.tile[0]

    def tiles(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) for an image of this (width, height).

        As LLaVA-NeXT's `select_best_resolution`: those that keep most of the image's pixels, and
        of these, those with the fewest pixels left empty.
        """
        width, height = image_size
        best, found = (-1.0, 0.0), (1, 1)
        for rows in range(1, self.longest + 1):
            for columns in range(1, min(self.most // rows, self.longest) + 1):
                h, w = rows * self.tile[0], columns * self.tile[1]
                scale = min(w / width, h / height)
                kept = min(width * height * scale**2, width * height)
                if (kept, kept - h * w) > best:
                    best, found = (kept, kept - h * w), (rows, columns)
        return found

    def fitted(self, image_size: tuple[int, int]) -> tuple[int, int]:
        rows, columns = self.tiles(image_size)
        h, w = rows * self.tile[0], columns * self.tile[1]
        scale = min(w / image_size[0], h / image_size[1])
        width, height = (max(round(side * scale), 1) for side in image_size)
        return width, height


class Tiles(PixelEncoder):
    """An encoder that sees a thumbnail of the whole image, and then the image in tiles.

    AnyRes of LLaVA-NeXT (Liu et al. 2024; grids of tiles in LLaVA-UHD, arXiv 2403.11703): the image
    fills the grid of tiles that best fits its aspect ratio and size. The encoder sees each tile as
    a separate image, so it sees details that would be lost at its own size. Tokens are those of the
    thumbnail, then those of the tiles, row by row. Cells outside the image and unused tiles are
    masked, and an image no larger than one tile has only its thumbnail. Boxes refer to the whole
    image. LLaVA-NeXT's tokens for the ends of rows are left out.

    Args:
        encoder: encoder of the thumbnail and of each tile. Of its own transform, the size and the
            filter are used; its own positions are not used, because they refer to a tile and not to
            the image.
        tiles: largest number of tiles of an image. A side has at most 3 tiles, or the root of
            `tiles` if that is more.
        pool: whether `pooled` is the "mean" or the "max" of the tokens.
        white_level: white value of grey images of 16 bits or floats; see `ImageTransform`.
        positions: how positions in the whole image are mixed into the tokens; see
            `vlm.image.Positions`.

    Raises:
        ValueError: fewer than one tile, or an encoder that does not read images of one size or
            contains other encoders.

    Example:
        >>> from PIL import Image
        >>> encoder = vlm.image.Tiles(vlm.image.ConvNet(32), tiles=4).eval()
        >>> photo = encoder.transform.open(Image.new("RGB", (96, 32)))
        >>> encoder(photo[None])
        Features(1 x 20 x 144, 16 real, boxes)
    """

    transform: TileTransform

    def __init__(
        self,
        encoder: PixelEncoder,
        tiles: int = 4,
        pool: Literal["mean", "max"] = "mean",
        white_level: WhiteLevel = None,
        positions: PositionKind = "sine",
    ) -> None:
        check_positive(tiles=tiles)
        if not isinstance(encoder, PixelEncoder) or type(encoder.transform) is not ImageTransform:
            raise ValueError(
                f"encoder: got {type(encoder).__name__}; expected an encoder whose images have one "
                f"size."
            )
        if encoder.parts():
            raise ValueError(
                f"encoder: got {type(encoder).__name__}, which has encoders inside; expected one."
            )
        side = min(tiles, max(3, isqrt(tiles)))
        height, width = encoder.transform.size
        rows, columns = encoder.grid
        super().__init__(
            dim=encoder.dim,
            grid=(side * rows, side * columns),
            transform=TileTransform(
                (side * height, side * width),
                encoder.transform.interpolation,
                "pad",
                1.0,
                white_level,
                (height, width),
                tiles,
            ),
            mean=tuple(encoder.mean.flatten().tolist()),
            std=tuple(encoder.std.flatten().tolist()),
        )
        self.encoder, self.pool = encoder, pool
        self.tiles = min(tiles, side * side)  # no more fit on the canvas
        encoder.positions = None
        self.positions = make_positions(positions, self.dim, pool)

    @property
    def length(self) -> int:
        return (1 + self.tiles) * self.encoder.length

    def layer_names(self) -> list[list[str]]:
        layers = [[f"encoder.{name}" for name in names] for names in self.encoder.layer_names()]
        own = [name for name, _ in self.named_parameters() if name.startswith(PREFIX)]
        return [*layers[:-1], layers[-1] + own] if layers else [own]

    def look(self, images: Tensor) -> Features:
        pixels, cells = self.normalised(images)
        place = _places(images)  # (B, 4)
        (h, w), (rows, columns) = self.transform.tile, self.encoder.grid
        side = self.transform.longest
        # The canvas in tiles, of which those come first that hold something of the image.
        tiled = pixels.unflatten(2, (side, h)).unflatten(4, (side, w))  # (B, 3, R, h, C, w)
        tiled = tiled.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)  # (B, R * C, 3, h, w)
        real = _in_tiles(cells, side, rows, columns)  # (B, R * C, P)
        used = real.any(2)
        used = used & (used.sum(1, keepdim=True) > 1)  # one tile is the thumbnail again
        order = used.long().argsort(dim=1, descending=True, stable=True)[:, : self.tiles]
        row = torch.arange(order.shape[0], device=order.device)[:, None]
        thumbnail = _shrunk(pixels, place, (h, w))[:, None]
        seen = torch.cat((thumbnail, tiled[row, order]), 1).flatten(0, 1)  # (B * (1 + T), 3, h, w)
        mask = (real & used[..., None])[row, order]
        mask = torch.cat((cells.any(1)[:, None, None].expand(-1, 1, rows * columns), mask), 1)
        tokens, _ = self.encode(seen, mask.flatten(0, 1))
        tokens = tokens.unflatten(0, mask.shape[:2])

        whole = grid_boxes(
            side * rows, side * columns, pixels.device
        )  # (R * rows * C * columns, 4)
        whole = _in_tiles(whole.T, side, rows, columns).permute(1, 2, 0)  # (R * C, P, 4)
        scale = place.new_tensor([side * w, side * h] * 2)
        of_tiles = _in_image((whole[order] * scale).flatten(1, 2), place)
        of_thumbnail = grid_boxes(rows, columns, pixels.device).expand(order.shape[0], -1, -1)
        mask = mask.flatten(1)
        boxes = torch.cat((of_thumbnail, of_tiles), 1).masked_fill(~mask[..., None], 0)
        tokens = tokens.flatten(1, 2).masked_fill(~mask[..., None], 0)
        return Features(tokens, mask, summary(tokens, mask, self.pool), boxes)

    def encode(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The encoder's own result for thumbnails and tiles: (B * (1 + T), 3, h, w)."""
        # A program has no shape that depends on values. Without training it needs none.
        if torch.compiler.is_compiling() and not self.training:
            return self.encoder.encode(images, mask)
        # Tiles of nothing cost nothing, and batch normalisation does not see them.
        real = mask.any(1)
        tokens, pooled = self.encoder.encode(images[real], mask[real])
        return tuple(  # type: ignore[return-value]  # two of them
            each.new_zeros(len(mask), *each.shape[1:]).index_put((real,), each)
            for each in (tokens, pooled)
        )


def _in_tiles(cells: Tensor, side: int, rows: int, columns: int) -> Tensor:
    """(B, side * rows * side * columns) -> (B, side * side, rows * columns), tile by tile."""
    shaped = cells.unflatten(1, (side, rows, side, columns))
    return shaped.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _shrunk(pixels: Tensor, place: Tensor, size: tuple[int, int]) -> Tensor:
    """The image at `place` (B, 4) of each canvas (B, 3, H, W) at one size, each pixel the mean of
    what it covers."""
    # In half precision, a coordinate of several hundred pixels would be off by some.
    x0, y0, x1, y1 = place.to(torch.promote_types(pixels.dtype, torch.float32)).unbind(1)
    down = _means(y0, y1, pixels.shape[2], size[0]).to(pixels.dtype)  # (B, h, H)
    across = _means(x0, x1, pixels.shape[3], size[1]).to(pixels.dtype)  # (B, w, W)
    return down[:, None] @ pixels @ across[:, None].mT


def _means(start: Tensor, end: Tensor, before: int, after: int) -> Tensor:
    """Weights (B, after, before) by which [start, end) of `before` pixels become `after` ones."""
    step = ((end - start) / after)[:, None, None]
    new = torch.arange(after, device=start.device)[:, None]
    old = torch.arange(before, device=start.device)
    low = start[:, None, None] + new * step
    overlap = torch.minimum(low + step, old + 1) - torch.maximum(low, old)
    return overlap.clamp(min=0) / step


def _places(images: Tensor) -> Tensor:
    """Where each image lies in its canvas: (B, 4, H, W) uint8 or float -> (B, 4), x0, y0, x1, y1 in
    pixels. Nothing at all counts as one pixel."""
    inside = images[:, 3] > (127 if images.dtype == torch.uint8 else 0.5)  # (B, H, W)
    sides = []
    for axis in (1, 2):  # columns, then rows
        filled = inside.any(axis).long()
        first = filled.argmax(1)
        sides.append((first, first + filled.sum(1).clamp(min=1)))
    (x0, x1), (y0, y1) = sides
    return torch.stack((x0, y0, x1, y1), 1)


def _in_image(boxes: Tensor, place: Tensor) -> Tensor:
    """Boxes (B, N, 4) in pixels of the canvas -> in [0, 1] of the image at `place` (B, 4)."""
    corner = place[:, None, :2].repeat(1, 1, 2)
    size = (place[:, None, 2:] - place[:, None, :2]).repeat(1, 1, 2)
    return ((boxes - corner) / size).clamp(0, 1)
