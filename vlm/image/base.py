"""What every image encoder offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vlm.core.features import Features
from vlm.core.layers import numbered_layers
from vlm.core.part import Part
from vlm.image.positions import Positions
from vlm.image.transform import ImageTransform


class ImageEncoder(Part, ABC):
    """Base of the image encoders: images or extracted features in, `Features` with boxes out.

    Attributes:
        dim: width of the tokens.
        transform: transform of any image to this encoder's input. Its `open` reads one image, and
            its `stack` makes a batch.
        positions: module that mixes positions into the tokens; None if the encoder has positions of
            its own, or none.

    Example:
        >>> class Colours(vlm.image.ImageEncoder):
        ...     def forward(self, images):
        ...         return vlm.Features(images.float().mean((2, 3))[:, None] / 255)
        >>> encoder = Colours(dim=3, transform=vlm.image.ImageTransform((64, 64)))
        >>> encoder(torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8))
        Features(2 x 1 x 3, 1 real)
    """

    def __init__(self, dim: int, transform: Any) -> None:
        super().__init__()
        self.dim, self.transform = dim, transform
        self.positions: Positions | None = None

    def layer_names(self) -> list[list[str]]:
        return numbered_layers(self)

    def train_new(self) -> None:
        if self.positions is not None:
            self.positions.requires_grad_(True)

    @abstractmethod
    def forward(self, images: Any) -> Features:
        """Encode a batch as `transform` makes it; `pooled` is made from the tokens."""

    if TYPE_CHECKING:
        __call__ = forward


class PixelEncoder(ImageEncoder):
    """Base of the encoders that turn images into patches or grid cells: (B, 3, H, W) -> `Features`.

    Tokens are the cells of a grid, row by row, without class tokens or registers. `pooled` is made
    from the real tokens and has their width. Cells that hold only the borders of a transform that
    pads are masked.

    An encoder whose tokens are not a grid also defines `look` and `length`; explanations then use
    its `grid` as their cells.

    Attributes:
        grid: (rows, columns) of the tokens.
        mean, std: (3, 1, 1) of the colour channels on the scale 0 to 1.

    Example:
        >>> class Patches(vlm.image.PixelEncoder):
        ...     def encode(self, images, mask):
        ...         tokens = torch.nn.functional.unfold(images, 16, stride=16).mT
        ...         return tokens, vlm.masked_mean(tokens, mask)
        >>> transform = vlm.image.ImageTransform((64, 64))
        >>> encoder = Patches(768, (4, 4), transform, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        >>> encoder(torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8))
        Features(2 x 16 x 768, 16 real, boxes)
    """

    transform: ImageTransform
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        dim: int,
        grid: tuple[int, int],
        transform: ImageTransform,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        super().__init__(dim, transform)
        self.grid = grid
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    @property
    def length(self) -> int:
        """The number of tokens of an image, including masked ones."""
        return self.grid[0] * self.grid[1]

    def parts(self) -> dict[str, PixelEncoder]:
        """The inner encoders whose features the feature cache stores separately, by their names; {}
        if it stores the features of the whole encoder."""
        return {}

    @abstractmethod
    def encode(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images -> tokens and their summary.

        Args:
            images: (B, 3, H, W), zeros in the padding.
            mask: (B, P) bool, True for a cell with a part of the image; P = rows * columns.

        Returns:
            Tokens (B, P, dim), pooled (B, dim).
        """

    def forward(self, images: Tensor | Features) -> Features:
        """Encode images as `transform` makes them.

        Args:
            images: `(B, *transform.shape)`, uint8 in [0, 255] or float in [0, 1]; or features that
                `look` returned earlier (`vlm.data.features.cache`).

        Raises:
            ValueError: another shape or number type.
        """
        if isinstance(images, Features):
            self.check(images)
        else:
            images = self.look(images)
        return images if self.positions is None else self.positions(images)

    def check(self, features: Features) -> None:
        """Check that this encoder can have made some features.

        Raises:
            ValueError: features with another number of tokens, or of another width.
        """
        if features.tokens.shape[1:] != (self.length, self.dim):
            raise ValueError(
                f"images: got features of shape {tuple(features.tokens.shape)}; expected "
                f"(B, {self.length}, {self.dim}), which this encoder made, or images. Use the "
                f"encoder's own `transform`."
            )

    def look(self, images: Tensor) -> Features:
        """The network's features of images, before positions are mixed in.

        Raises:
            ValueError: as `forward` does.
        """
        images, mask = self.normalised(images)
        tokens, pooled = self.encode(images, mask)
        boxes = grid_boxes(*self.grid, device=tokens.device).expand(tokens.shape[0], -1, -1)
        return Features(tokens, mask, pooled, boxes)

    def normalised(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The images of `transform`, normalised for `encode`.

        Raises:
            ValueError: as `forward` does.
        """
        is_tensor = isinstance(images, Tensor)
        if not is_tensor or images.ndim != 4 or images.shape[1:] != self.transform.shape:
            got = f"shape {tuple(images.shape)}" if is_tensor else type(images).__name__
            raise ValueError(
                f"images: got {got}; expected (B, {', '.join(map(str, self.transform.shape))}). "
                f"Use the encoder's own `transform`."
            )
        # Normalised here and not in the loader: images travel as uint8, a quarter of the bytes.
        if images.dtype == torch.uint8:
            images = images.to(self.mean.dtype) / 255
        elif images.is_floating_point():
            images = images.to(self.mean.dtype)
        else:
            raise ValueError(
                f"images: got dtype {images.dtype}; expected uint8 in [0, 255] or float in [0, 1]."
            )
        normalised = (images[:, :3] - self.mean) / self.std
        if images.shape[1] == 3:
            cells = self.grid[0] * self.grid[1]
            return normalised, images.new_ones(images.shape[0], cells, dtype=torch.bool)
        inside = images[:, 3:] > 0.5  # (B, 1, H, W)
        # Any pixel counts: an image as narrow as a line still has cells.
        mask = F.adaptive_max_pool2d(inside.to(normalised.dtype), self.grid).flatten(1) > 0
        return normalised * inside, mask


def grid_boxes(rows: int, columns: int, device: torch.device | None = None) -> Tensor:
    """Boxes (rows * columns, 4) of a grid's cells, row by row: x0, y0, x1, y1 in [0, 1]."""
    y, x = torch.meshgrid(
        torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij"
    )
    corners = (x / columns, y / rows, (x + 1) / columns, (y + 1) / rows)
    return torch.stack(corners, -1).flatten(0, 1)
