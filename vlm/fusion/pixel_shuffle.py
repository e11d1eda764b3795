"""Neighbouring patches brought together, so that a language model has fewer to read."""

from __future__ import annotations

from math import isqrt

from einops import rearrange
from torch.nn import functional as F

from vlm.core.features import Features, masked_max
from vlm.core.validation import check_positive
from vlm.fusion.projector import Projector


class PixelShuffle(Projector):
    """Idefics3's connector: squares of factor x factor patches become one token each.

        tokens = [W [patch_11; patch_12; ...; patch_ff], U words + b]
        pooled = mean(U words + b) * max(tokens of the image)

    A square's patches are put side by side, row by row, before the map W, which has no bias
    (Laurençon et al. 2024, arXiv 2408.12637, section 3.2; Shi et al. 2016, arXiv 1609.05158). So
    1,024 patches become 64 tokens with a factor of 4. A square counts as real if at least one of
    its patches is; its missing patches are zeros. `pooled` is that of `Projector`.

    Args:
        image_dim, text_dim: widths of the inputs.
        out_dim: width of the result.
        factor: number of patches along a side of a square.
        columns: number of patches in a row of the grid; None for a square grid. If a question has
            several images, the rows of each must be a multiple of `factor`; otherwise one token
            would mix two images. `VQAModel` checks that.

    Raises:
        ValueError: several images without `columns`; at use, no `columns` and a number of patches
            that is not a square number.

    Example:
        >>> fusion = vlm.fusion.PixelShuffle(image_dim=64, text_dim=32, out_dim=48, factor=2)
        >>> fusion(torch.randn(2, 64, 64), torch.randn(2, 7, 32))
        Features(2 x 23 x 48, 23 real)
    """

    def __init__(
        self,
        image_dim: int,
        text_dim: int,
        out_dim: int = 256,
        factor: int = 2,
        columns: int | None = None,
    ) -> None:
        check_positive(
            image_dim=image_dim, factor=factor, columns=1 if columns is None else columns
        )
        super().__init__(image_dim * factor**2, text_dim, out_dim, num_layers=1, bias=False)
        self.image_dim, self.factor, self.columns = image_dim, factor, columns

    def take_images(self, most: int) -> None:
        if self.columns is None:  # four square images would pass for a larger one
            raise ValueError(
                f"columns: got None for up to {most} images of a question, which come one below "
                f"the other; expected the patches in a row of an image."
            )
        super().take_images(most)

    def prepare(self, image: Features) -> Features:
        number, side = image.tokens.shape[1], self.factor
        columns = isqrt(number) if self.columns is None else self.columns
        if self.columns is None and columns**2 != number:
            raise ValueError(
                f"image: got {number} patches, which are no square grid; expected `columns`, the "
                f"patches in a row."
            )
        rows = -(-number // columns)
        tokens = F.pad(image.zero_padding().tokens, (0, 0, 0, rows * columns - number))
        mask = F.pad(image.mask, (0, rows * columns - number))
        # Rows and columns are filled up to whole squares.
        below, right = -rows % side, -columns % side
        grid = F.pad(tokens.unflatten(1, (rows, columns)), (0, 0, 0, right, 0, below))
        real = F.pad(mask.unflatten(1, (rows, columns)), (0, right, 0, below))
        squares = rearrange(grid, "b (h i) (w j) d -> b (h w) (i j d)", i=side, j=side)
        real = rearrange(real, "b (h i) (w j) -> b (h w) (i j)", i=side, j=side).any(-1)
        patches = self.image_projection(squares)  # (B, P / factor^2, D)
        return Features(patches, real, masked_max(patches, real))
