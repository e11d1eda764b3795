"""Features of regions that a detector extracted beforehand, in the place of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vlm.core.features import Features, as_features
from vlm.core.validation import check_positive
from vlm.image.base import ImageEncoder
from vlm.image.detections import Regions, read_npz
from vlm.image.load import ImageError
from vlm.image.positions import PositionKind, make_positions


@dataclass(frozen=True)
class RegionTransform:
    """What `ImageTransform` is to images.

    Args:
        dim: width that the features must have.
    """

    dim: int

    def open(self, source: Any) -> Features:
        """The regions (1, N, dim) of an image from its .npz (`vlm.image.detections.read_npz`).

        Raises:
            ImageError: anything but the path of a good .npz.
        """
        is_path = isinstance(source, (str, Path))
        name = str(source) if is_path else f"image (a {type(source).__name__})"
        if not name.endswith(".npz"):
            raise ImageError(
                f"{name}: this model reads region features from a detector, not images. Give the "
                "image's .npz file with x (N, "
                f"{self.dim}), bbox, image_w and image_h, from the detector it was trained on."
            )
        return self(read_npz(name))

    def __call__(self, regions: Regions) -> Features:
        """Regions of one image -> (1, N, dim).

        Raises:
            ImageError: features of another width.
        """
        if regions.features.shape[1] != self.dim:
            raise ImageError(
                f"{regions.source}: features {regions.features.shape[1]} wide; expected "
                f"{self.dim}. Set model.image_encoder.init_args.dim to the width of the files."
            )
        # Memory of its own: what a file is read into may be read-only, and torch warns.
        tokens = torch.tensor(regions.features)[None]
        return Features(tokens, boxes=torch.tensor(regions.boxes)[None])

    def stack(self, items: Sequence[Features]) -> Features:
        """One batch, padded with zeros to the image with the most regions: (U, N, dim)."""
        if not items:  # a process without a share of the batch
            return self.blank(0)
        counts = torch.tensor([item.tokens.shape[1] for item in items])
        return Features(
            pad_sequence([item.tokens[0] for item in items], batch_first=True),
            torch.arange(int(counts.max())) < counts[:, None],
            torch.cat([item.pooled for item in items]),
            pad_sequence([cast(Tensor, item.boxes)[0] for item in items], batch_first=True),
        )

    def blank(self, count: int) -> Features:
        """Images with one region, which is the whole image and shows nothing."""
        whole = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(count, 1, 4)
        return Features(torch.zeros(count, 1, self.dim), boxes=whole)


class RegionFeatures(ImageEncoder):
    """Features of regions, extracted beforehand by a detector; only their positions are trained.

    Tokens are the regions of the files, 10 to 100 per image or a fixed number. `boxes` are their
    places, and `pooled` is their mean. BUTD (`GlimpseAttention`), `BAN`, `MCAN` and `MuRel` were
    published in this way, without positions, on the 2048 features of bottom-up attention (Anderson
    et al. 2018, arXiv 1707.07998, section 3.1). `data.images.regions` names the files.

    Args:
        dim: width of the features.
        positions: how the boxes are mixed into the tokens; see `vlm.image.Positions`. "learned"
            needs a grid, so it cannot be used.

    Example:
        >>> encoder = vlm.image.RegionFeatures(dim=2048)
        >>> encoder(vlm.Features(torch.randn(2, 36, 2048), boxes=torch.rand(2, 36, 4)))
        Features(2 x 36 x 2048, 36 real, boxes)
    """

    transform: RegionTransform
    number_type: Tensor

    def __init__(self, dim: int = 2048, positions: PositionKind = "sine") -> None:
        check_positive(dim=dim)
        super().__init__(dim, RegionTransform(dim))
        self.positions = make_positions(positions, dim, "mean")
        # Without positions no parameter shows what `.double()` or `.half()` made of the model.
        self.register_buffer("number_type", torch.empty(0), persistent=False)

    def forward(self, images: Features) -> Features:
        """Regions as `transform` makes them -> the same, with zeros in the padding.

        Args:
            images: features of regions (B, N, dim) with boxes.

        Raises:
            ValueError: images, features of another width, or without boxes.
        """
        images = as_features(images, "images")
        if images.tokens.shape[2] != self.dim or images.boxes is None:
            raise ValueError(
                f"images: got features of shape {tuple(images.tokens.shape)} "
                f"{'without' if images.boxes is None else 'with'} boxes; expected (B, N, "
                f"{self.dim}) with boxes. Use the encoder's own `transform`."
            )
        tokens = images.zero_padding().tokens.to(self.number_type.dtype)
        boxes = images.boxes.masked_fill(~images.mask[..., None], 0)
        features = Features(tokens, images.mask, boxes=boxes)
        return features if self.positions is None else self.positions(features)
