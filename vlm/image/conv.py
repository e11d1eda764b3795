"""Small convolutional networks, made for training from scratch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlm.core.features import masked_max
from vlm.core.validation import check_positive
from vlm.image.base import PixelEncoder
from vlm.image.grid import rows_of
from vlm.image.load import WhiteLevel
from vlm.image.positions import PositionKind, make_positions
from vlm.image.transform import ImageTransform


class ConvNet(PixelEncoder):
    """A convolutional network that halves the image in each stage; every scale reaches the tokens.

    Each stage's output is max-pooled to the last grid, and all are concatenated (progressive
    aggregation), so each token has both fine edges and whole shapes. The concatenation is
    normalised once more, without a ReLU after it, because attention cannot choose among tokens that
    differ little from their mean (docs/log.md, 2026-11-30). `pooled` is the maximum over the grid,
    so an object counts wherever it lies.

    Args:
        image_size: height and width of the input in pixels; a multiple of 2 ** stages.
        widths: number of channels of each stage; the first stage is at half the input's resolution.
        dropout: fraction of the pooled and token channels dropped in training, in [0, 1).
        white_level: white value of grey images of 16 bits or floats; see `ImageTransform`.
        positions: how positions are mixed into the tokens; see `vlm.image.Positions`.

    Example:
        >>> encoder = vlm.image.ConvNet(image_size=64)
        >>> encoder(torch.rand(2, 3, 64, 64))
        Features(2 x 16 x 144, 16 real, boxes)
    """

    def __init__(
        self,
        image_size: int = 64,
        widths: Sequence[int] = (16, 32, 32, 64),
        dropout: float = 0.0,
        white_level: WhiteLevel = None,
        positions: PositionKind = "sine",
    ) -> None:
        check_positive(**{f"widths[{i}]": width for i, width in enumerate(widths)})
        scale = 2 ** len(widths)
        if not widths or image_size % scale or image_size < scale:
            raise ValueError(
                f"image_size: got {image_size} with {len(widths)} stages; expected a multiple of "
                f"{scale}, as each stage halves the image."
            )
        side = image_size // scale
        super().__init__(
            dim=sum(widths),
            grid=(side, side),
            transform=ImageTransform((image_size, image_size), white_level=white_level),
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        )
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, width, 3, padding=1, bias=False),  # the bias is BatchNorm's
                nn.MaxPool2d(2),  # before the normalisation, which then has a quarter of the work
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            )
            for before, width in zip([3, *widths], widths, strict=False)
        )
        self.norm = nn.BatchNorm2d(self.dim)
        self.dropout = nn.Dropout(dropout)
        self.positions = make_positions(positions, self.dim, "max", self.grid)
        # Twice as fast as the default layout on CPU, and best for GPUs in half precision.
        self.to(memory_format=torch.channels_last)

    def encode(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        images = images.contiguous(memory_format=torch.channels_last)
        scales = []
        for layers in self.stages:
            images = layers(images)
            scales.append(images)
        grids = [F.max_pool2d(s, s.shape[-1] // self.grid[1]) for s in scales]
        tokens = self.dropout(rows_of(self.norm(torch.cat(grids, 1))))  # (B, P, D)
        return tokens, masked_max(tokens, mask)


class StridedConvNet(PixelEncoder):
    """A network of convolutions of stride 2; tokens are the cells of the last map.

    The network of relation networks (Santoro et al. 2017, arXiv 1706.01427, supplement: four layers
    of 24 kernels of 3 x 3, on 75 pixels) and, with four layers of 128 kernels of 4 x 4 on 224
    pixels, FiLM's own (Perez et al. 2018, arXiv 1709.07871, section 3.1). Each convolution is
    followed by batch normalisation and a ReLU. `pooled` is the maximum over the grid.

    Args:
        image_size: height and width of the input in pixels.
        widths: number of channels of each layer.
        kernel_size: height and width of the kernels.
        white_level: white value of grey images of 16 bits or floats; see `ImageTransform`.
        positions: how positions are mixed into the tokens; see `vlm.image.Positions`.

    Raises:
        ValueError: no layers, or an image that is too small for them.

    Example:
        >>> encoder = vlm.image.StridedConvNet(image_size=75)
        >>> encoder(torch.rand(2, 3, 75, 75))
        Features(2 x 25 x 24, 25 real, boxes)
    """

    def __init__(
        self,
        image_size: int = 75,
        widths: Sequence[int] = (24, 24, 24, 24),
        kernel_size: int = 3,
        white_level: WhiteLevel = None,
        positions: PositionKind = "sine",
    ) -> None:
        check_positive(kernel_size=kernel_size)
        check_positive(**{f"widths[{i}]": width for i, width in enumerate(widths)})
        side = image_size
        for _ in widths:
            side = (side + 2 - kernel_size) // 2 + 1
        if not widths or side < 1:
            raise ValueError(
                f"image_size: got {image_size} with {len(widths)} layers of {kernel_size} x "
                f"{kernel_size}; expected a layer at least, and an image that is large enough."
            )
        super().__init__(
            dim=widths[-1],
            grid=(side, side),
            transform=ImageTransform((image_size, image_size), white_level=white_level),
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        )
        self.layers = nn.Sequential()
        for before, width in zip([3, *widths], widths, strict=False):
            convolution = nn.Conv2d(before, width, kernel_size, 2, padding=1, bias=False)
            self.layers.append(nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU()))
        self.positions = make_positions(positions, self.dim, "max", self.grid)
        self.to(memory_format=torch.channels_last)

    def encode(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.layers(images.contiguous(memory_format=torch.channels_last))
        tokens = rows_of(maps)
        return tokens, masked_max(tokens, mask)
