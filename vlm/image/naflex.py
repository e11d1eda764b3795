"""Vision transformers of timm that take images of any aspect, by a budget of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from vlm.core.features import Features
from vlm.core.safe_config import nothing, word
from vlm.core.validation import check_positive
from vlm.image.base import PixelEncoder
from vlm.image.canvas import CanvasTransform
from vlm.image.grid import summary
from vlm.image.load import WhiteLevel
from vlm.image.positions import PREFIX, PositionKind, make_positions
from vlm.image.timm import timm_layers, timm_model, timm_options, timm_recipe
from vlm.pretrained.pruning import prune


@dataclass(frozen=True)
class BudgetTransform(CanvasTransform):
    """As large as a number of patches allows, with the aspect kept but for rounding to patches.

    An image of more than four times its width or height has fewer patches, for the canvas ends.

    Args:
        patch: side of a patch in pixels.
        budget: most patches of an image.
    """

    patch: int = 16
    budget: int = 256

    @classmethod
    def make(
        cls, patch: int, budget: int, interpolation: Any, white_level: WhiteLevel
    ) -> BudgetTransform:
        """With the canvas that an image of 4 x 1 needs."""
        side = isqrt(4 * budget) * patch
        return cls((side, side), interpolation, "pad", 1.0, white_level, patch, budget)

    def fitted(self, image_size: tuple[int, int]) -> tuple[int, int]:
        from timm.data.naflex_transforms import get_image_size_for_seq

        longest = self.size[0] // self.patch
        short, long = sorted(image_size)
        if long * self.budget > short * longest**2:
            few = max(round(longest * short / long), 1)
            shape = (few, min(longest, self.budget // few))
            height, width = shape if image_size[0] == long else shape[::-1]
            return width * self.patch, height * self.patch
        # Its search has bounds: it is given the image at about the size that it should find.
        scale = self.patch * (self.budget / (short * long)) ** 0.5
        sides = image_size[1] * scale, image_size[0] * scale
        _, (height, width) = get_image_size_for_seq(sides, self.patch, self.budget)
        most = longest * self.patch
        return min(width, most), min(height, most)


class NaFlexEncoder(PixelEncoder):
    """A NaFlex vision transformer of timm: any aspect ratio, within a budget of patches.

    NaViT (Dehghani et al. 2023, arXiv 2307.06304) with FlexiViT's resized positions, as in SigLIP 2
    (arXiv 2502.14786, section 2.4.2). The image keeps its aspect ratio, so nothing is squashed or
    cut, and the cost is bounded. timm embeds the patches, resizes the positions to the image's own
    grid and masks the rest of the budget. The positions are sampled from the trained ones
    (`pos_embed_use_grid_sample`), so the model can be compiled and exported.

    Args:
        name: a name of `timm.list_models("naflexvit*")`, with or without the tag of its weights.
        pretrained: weights to load, as for `TimmEncoder`.
        tokens: largest number of patches of an image; also the number of tokens, including masked
            ones.
        model_args: further arguments of `timm.create_model`, plain data: a small transformer
            from scratch is `{"patch_size": 8, "embed_dim": 96, "depth": 4, "num_heads": 3}`.
        pool: whether `pooled` is the "mean" or the "max" of the tokens.
        white_level: white value of grey images of 16 bits or floats; see `ImageTransform`.
        positions: how positions are mixed into the tokens; see `vlm.image.Positions`. "auto" is
            "none" if the model has positions of its own, as all NaFlex models have.

    Raises:
        ValueError: a model that is not a NaFlex transformer, a budget below 1, an unknown name or
            tag, or weights that do not fit.
        OSError: the weights are neither in the cache nor available.

    Example:
        >>> from PIL import Image
        >>> small = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
        >>> encoder = vlm.image.NaFlexEncoder(tokens=64, model_args=small).eval()
        >>> wide, square = Image.new("RGB", (300, 100)), Image.new("RGB", (50, 50))
        >>> encoder(encoder.transform.stack([encoder.transform.open(i) for i in (wide, square)]))
        Features(2 x 64 x 32, 48-64 real, boxes)
    """

    model: Any
    transform: BudgetTransform
    stored: ClassVar = {"name": word, "pretrained": nothing, "model_args": timm_options}

    def __init__(
        self,
        name: str = "naflexvit_base_patch16_gap",
        pretrained: bool | str = False,
        tokens: int = 256,
        model_args: dict[str, Any] | None = None,
        pool: Literal["mean", "max"] = "mean",
        white_level: WhiteLevel = None,
        positions: PositionKind = "auto",
    ) -> None:
        check_positive(tokens=tokens)
        if not name.startswith("naflexvit"):
            raise ValueError(
                f"name: got {name!r}; expected a NaFlex transformer, one of "
                f'timm.list_models("naflexvit*"). `TimmEncoder` takes the others.'
            )
        given = {"pos_embed_use_grid_sample": True} | dict(model_args or {})
        model, data = timm_model(name, pretrained, given)
        patch = model.embeds.patch_size[0]
        transform = BudgetTransform.make(patch, tokens, data["interpolation"], white_level)
        cells = transform.size[0] // patch
        super().__init__(model.embed_dim, (cells, cells), transform, data["mean"], data["std"])
        self.model, self.tokens, self.pool = model.eval(), tokens, pool
        prune(model, lambda: self.look(transform.blank(1)).tokens)
        model.train()
        self.positions = make_positions(positions, self.dim, pool, None, model)
        self.arguments.update(timm_recipe(model, given))

    @property
    def length(self) -> int:
        return self.tokens

    def layer_names(self) -> list[list[str]]:
        layers = timm_layers(self.model)
        layers[-1] += [n for n, _ in self.named_parameters() if n.startswith(PREFIX)]
        return layers

    def encode(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        from timm.models.naflexvit import batch_patchify

        patch = self.transform.patch
        last = self.model.embeds.channels_last
        patches, _ = batch_patchify(images, (patch, patch), pad=False, channels_last=last)
        order, real, at = self._chosen(mask)
        patches = patches.gather(1, order[..., None].expand(-1, -1, patches.shape[2]))
        found = self.model.forward_features(patches, at.flip(-1), real)["patches"]
        tokens = found[:, self.model.num_prefix_tokens :].masked_fill(~real[..., None], 0)
        return tokens, summary(tokens, real, self.pool)

    def look(self, images: Tensor) -> Features:
        pixels, cells = self.normalised(images)
        tokens, pooled = self.encode(pixels, cells)
        _, mask, at = self._chosen(cells)
        size = (at.amax(1) + 1).repeat(1, 2)[:, None]
        boxes = torch.cat((at, at + 1), -1) / size
        return Features(tokens, mask, pooled, boxes.masked_fill(~mask[..., None], 0))

    def _chosen(self, cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The canvas's patches that become tokens: their places in it (B, N), which of them are
        real (B, N), and x and y of these in the image's own grid (B, N, 2)."""
        # Those that hold something of the image come first, row by row.
        order = cells.long().argsort(dim=1, descending=True, stable=True)[:, : self.tokens]
        mask = cells.gather(1, order)
        at = torch.stack((order % self.grid[1], order // self.grid[1]), -1)
        outside = ~mask[..., None]
        first = at.masked_fill(outside, sum(self.grid)).amin(1, keepdim=True)
        return order, mask, (at - first).masked_fill(outside, 0)
