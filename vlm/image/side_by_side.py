"""Several image encoders in one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlm.core.features import Features, Several
from vlm.core.validation import check_positive
from vlm.image.base import PixelEncoder
from vlm.image.grid import summary
from vlm.image.load import WhiteLevel
from vlm.image.positions import PREFIX, PositionKind, make_positions
from vlm.image.transform import Fit, ImageTransform, Interpolation


class View(PixelEncoder):
    """One encoder of several: it sees the input of all of them, at its own size.

    Its features are those that the feature cache keeps of this encoder. The arguments after the
    first are those of the shared `ImageTransform`.
    """

    def __init__(
        self,
        encoder: PixelEncoder,
        size: Sequence[int],
        interpolation: Interpolation,
        fit: Fit,
        white_level: WhiteLevel,
    ) -> None:
        height, width = size
        super().__init__(
            encoder.dim,
            encoder.grid,
            ImageTransform((height, width), interpolation, fit, 1.0, white_level),
            tuple(encoder.mean.flatten().tolist()),
            tuple(encoder.std.flatten().tolist()),
        )
        self.encoder = encoder

    def layer_names(self) -> list[list[str]]:
        return [[f"encoder.{name}" for name in names] for names in self.encoder.layer_names()]

    def encode(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        size = self.encoder.transform.size
        if images.shape[2:] != size:
            wide = torch.promote_types(images.dtype, torch.float32)  # a CPU has no other kernels
            scaled = F.interpolate(images.to(wide), size, mode="bilinear", antialias=True)
            images = scaled.to(images.dtype)
        return self.encoder.encode(images, mask)


class SideBySide(PixelEncoder):
    """Several image encoders, whose tokens are concatenated.

    For example, combine a network that knows objects with one that knows words (DINOv2 and SigLIP
    as in Prismatic, arXiv 2402.07865, section 4.2), or a small CNN from scratch with a frozen ViT.

    Each encoder sees the whole input at its own size. Along "channels", the tokens for the same
    place become one token, on the finest of the grids; tokens of a coarser grid are repeated. Along
    "tokens", each encoder keeps its own grid: a linear map brings its tokens to one width, and a
    learned vector marks their encoder. This map and vector are trained even if the encoder is
    frozen, because they have no pretrained weights. `model.tuning.encoders` sets how each encoder
    is trained, and the feature cache stores the features of the frozen ones.

    Args:
        encoders: two or more encoders. Of their own transforms only the size is used, and their own
            positions are not used.
        along: axis of the concatenation, "channels" or "tokens".
        dim: width of the tokens along "tokens"; None for that of the widest encoder. Along
            "channels" the width is the sum of all widths.
        fit: how an image is brought to the input's size, which is that of the largest of the
            encoders' inputs; see `ImageTransform`.
        pool: whether `pooled` is the "mean" or the "max" of the tokens. Along "tokens", each
            encoder has the same share of the mean, however many tokens it has.
        white_level: white value of grey images of 16 bits or floats; see `ImageTransform`.
        positions: how positions are mixed into the tokens; see `vlm.image.Positions`.

    Raises:
        ValueError: fewer than two encoders, an encoder that does not read whole images of one size
            or that contains encoders itself, inputs of different aspect ratios, or `dim` along
            "channels".

    Example:
        >>> coarse, fine = vlm.image.ConvNet(32), vlm.image.ConvNet(64, widths=(8, 16, 16))
        >>> encoder = vlm.image.SideBySide([coarse, fine])
        >>> encoder(torch.rand(2, 3, 64, 64))
        Features(2 x 64 x 184, 64 real, boxes)
        >>> encoder = vlm.image.SideBySide([coarse, fine], along="tokens", dim=96)
        >>> encoder(torch.rand(2, 3, 64, 64))
        Features(2 x 68 x 96, 68 real, boxes)
    """

    def __init__(
        self,
        encoders: Sequence[PixelEncoder],
        along: Literal["channels", "tokens"] = "channels",
        dim: int | None = None,
        fit: Fit = "squash",
        pool: Literal["mean", "max"] = "mean",
        white_level: WhiteLevel = None,
        positions: PositionKind = "sine",
    ) -> None:
        _check(encoders, along, dim)
        widths = [encoder.dim for encoder in encoders]
        transforms = [encoder.transform for encoder in encoders]
        size = max(transform.size for transform in transforms)
        super().__init__(
            dim=sum(widths) if along == "channels" else dim or max(widths),
            grid=max((encoder.grid for encoder in encoders), key=lambda g: g[0] * g[1]),
            transform=ImageTransform(size, transforms[0].interpolation, fit, 1.0, white_level),
            mean=(0.0, 0.0, 0.0),  # each encoder has its own
            std=(1.0, 1.0, 1.0),
        )
        seen = [*size], transforms[0].interpolation, fit, white_level
        self.views = nn.ModuleList(View(encoder, *seen) for encoder in encoders)
        self.along, self.pool = along, pool
        for encoder in encoders:
            encoder.positions = None
        self.projections = nn.ModuleList()
        self.marks: nn.Parameter | None = None
        if along == "tokens":
            self.projections.extend(nn.Linear(width, self.dim, bias=False) for width in widths)
            self.marks = nn.Parameter(torch.randn(len(encoders), self.dim) * 0.02)
        places = self.grid if along == "channels" else (self.length, 1)
        self.positions = make_positions(positions, self.dim, pool, places)

    @property
    def length(self) -> int:
        if self.along == "channels":
            return super().length
        return sum(view.length for view in self.parts().values())

    def encoders(self) -> dict[str, PixelEncoder]:
        """The given encoders, by their names in this module."""
        return {f"{name}.encoder": v.encoder for name, v in self.parts().items()}

    def parts(self) -> dict[str, View]:  # type: ignore[override]  # nothing writes to it
        return {f"views.{n}": v for n, v in enumerate(self.views) if isinstance(v, View)}

    def train_new(self) -> None:
        super().train_new()
        self.projections.requires_grad_(True)
        if self.marks is not None:
            self.marks.requires_grad_(True)

    def layer_names(self) -> list[list[str]]:
        """The encoders' layers together, counted from their outputs."""
        stacks = []
        for place, view in self.parts().items():
            stacks.append([[f"{place}.{n}" for n in names] for names in view.layer_names()])
        beside = zip_longest(*(stack[::-1] for stack in stacks), fillvalue=[])
        layers = [[name for names in found for name in names] for found in beside][::-1]
        own = (PREFIX, "projections.", "marks")
        layers[-1] += [name for name, _ in self.named_parameters() if name.startswith(own)]
        return layers

    def forward(self, images: Tensor | Features | Several) -> Features:
        """As every `PixelEncoder`, and of `Several`: features that some encoders made before.

        Raises:
            ValueError: also features of another encoder, or of another number of them.
        """
        if isinstance(images, Several):
            images = self._together(self._seen(images))
        features = super().forward(images)
        if self.along == "channels":
            return features
        return features._replace(pooled=self._summary(features.tokens, features.mask))

    def encode(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("SideBySide: each encoder has its own normalisation; use `look`.")

    def look(self, images: Tensor) -> Features:
        return self._together([view.look(images) for view in self.parts().values()])

    def _seen(self, given: Several) -> list[Features]:
        views = list(self.parts().values())
        if len(given.known) != len(views):
            raise ValueError(
                f"images: got features of {len(given.known)} encoders; expected one entry for each "
                f"of {len(views)}."
            )
        found = []
        for view, features in zip(views, given.known, strict=True):
            if features is not None:
                view.check(features)
            elif given.images is not None:
                features = view.look(given.images)
            else:
                raise ValueError(
                    "images: got neither images nor features for an encoder; expected one of them."
                )
            found.append(features)
        return found

    def _together(self, seen: Sequence[Features]) -> Features:
        """What the encoders made of the same images -> one `Features`."""
        if self.along == "channels":
            maps = []
            for view, features in zip(self.parts().values(), seen, strict=True):
                maps.append(_spread(features.tokens, view.grid, self.grid))
            of_finest = max(seen, key=lambda features: features.mask.shape[1])
            tokens, (mask, boxes) = torch.cat(maps, 2), (of_finest.mask, of_finest.boxes)
            return Features(tokens, mask, summary(tokens, mask, self.pool), boxes)
        assert self.marks is not None
        brought = [
            project(features.tokens) + mark
            for project, mark, features in zip(self.projections, self.marks, seen, strict=True)
        ]
        tokens, mask = torch.cat(brought, 1), torch.cat([features.mask for features in seen], 1)
        found = [features.boxes for features in seen if features.boxes is not None]
        return Features(tokens, mask, self._summary(tokens, mask), torch.cat(found, 1))

    def _summary(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Along "tokens": (B, N, D), (B, N) -> (B, D)."""
        if self.pool == "max":
            return summary(tokens, mask, "max")
        lengths = [view.length for view in self.parts().values()]
        of_each = zip(tokens.split(lengths, 1), mask.split(lengths, 1), strict=True)
        return torch.stack([summary(*part, "mean") for part in of_each]).mean(0)


def _spread(tokens: Tensor, grid: tuple[int, int], onto: tuple[int, int]) -> Tensor:
    """Tokens (B, h * w, D) on a finer grid: each cell has the token that its middle lies in."""
    rows, columns = (
        (2 * torch.arange(fine, device=tokens.device) + 1) * coarse // (2 * fine)
        for coarse, fine in zip(grid, onto, strict=True)
    )
    return tokens.unflatten(1, grid)[:, rows[:, None], columns].flatten(1, 2)


def _check(encoders: Sequence[PixelEncoder], along: str, dim: int | None) -> None:
    if len(encoders) < 2:
        raise ValueError(f"encoders: got {len(encoders)}; expected two or more.")
    for encoder in encoders:
        if not isinstance(encoder, PixelEncoder):
            raise ValueError(
                f"encoders: got {type(encoder).__name__}; expected encoders that read pixels."
            )
        if type(encoder.transform) is not ImageTransform:
            raise ValueError(
                f"encoders: got {type(encoder).__name__}, whose input depends on the aspect of the "
                f"image; expected encoders whose images have one size."
            )
        if encoder.parts():
            raise ValueError(
                f"encoders: got {type(encoder).__name__}, which has encoders inside; expected "
                f"these themselves, in one list."
            )
    aspects = {e.transform.size[0] / e.transform.size[1] for e in encoders}
    if len(aspects) > 1:
        sizes = ", ".join("{} x {}".format(*e.transform.size) for e in encoders)
        raise ValueError(
            f"encoders: got inputs of {sizes} pixels; expected one aspect, since all see the same "
            f"image. Set their image_size."
        )
    if dim is not None:
        check_positive(dim=dim)
        if along == "channels":
            raise ValueError(
                f"dim: got {dim} along channels, where the width is the sum of the encoders'; "
                f"leave it out, or set along='tokens'."
            )
