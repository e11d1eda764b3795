"""Any image tower of open_clip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from vlm.core.safe_config import nothing
from vlm.core.validation import check_positive
from vlm.image.base import PixelEncoder
from vlm.image.grid import check_stages, rows_of, side_by_side, summary
from vlm.image.load import WhiteLevel
from vlm.image.positions import PositionKind, make_positions
from vlm.image.transform import Fit, ImageTransform
from vlm.pretrained.open_clip import BOTH, check_stored, load_tower, read_config
from vlm.pretrained.pruning import prune

_FITS: dict[str, Fit] = {"shortest": "crop", "longest": "pad", "squash": "squash"}


class OpenClipImageEncoder(PixelEncoder):
    """The image tower of a CLIP (arXiv 2103.00020) of open_clip, by name.

    Tokens are the patches or grid cells before the tower's own pooling and its projection to the
    space of words; `pooled` is their mean or maximum. The model is loaded once together with an
    `OpenClipTextEncoder` of the same name and `pretrained`.

    After construction `arguments` holds the tower's configuration as plain data and says
    `pretrained=False`: a rebuilt encoder gets its weights from the checkpoint.

    Args:
        name: a model of `open_clip.list_models()`, `hf-hub:OWNER/NAME`, or a local folder with
            `open_clip_config.json`.
        pretrained: a tag that open_clip has for the name, or a file; True for the weights of a
            repository or a folder.
        image_size: height and width of the input in pixels; None for the model's own.
        fit: how an image is brought to the input's size, see `ImageTransform`; None for the model's
            own way.
        pool: whether `pooled` is the "mean" or the "max" of the tokens.
        stages: layers to concatenate in each token, on the grid of the last one in the list; -1 is
            the last layer.
        config: the configuration itself instead of `name`.
        white_level: white value of grey images of 16 bits or floats; see `ImageTransform`.
        positions: how positions are mixed into the tokens; see `vlm.image.Positions`. "auto" is
            "sine" if the model has no positions of its own, and "none" if it has.

    Raises:
        ValueError: an unknown name or tag, weights that do not fit, or stages that the model lacks.
        OSError: the weights are neither in the cache nor available.

    Example:
        >>> vision = {"image_size": 64, "patch_size": 16, "width": 64, "layers": 2}
        >>> text = {"context_length": 16, "width": 64, "heads": 2, "layers": 2}
        >>> look = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
        >>> look["resize_mode"] = "shortest"
        >>> towers = {"vision_cfg": vision, "text_cfg": text, "preprocess_cfg": look}
        >>> config = {"embed_dim": 32, **towers}
        >>> encoder = vlm.image.OpenClipImageEncoder(config=config)
        >>> encoder(torch.rand(2, 3, 64, 64))
        Features(2 x 16 x 64, 16 real, boxes)
    """

    model: Any
    stored: ClassVar = {"pretrained": nothing, "config": check_stored}

    def __init__(
        self,
        name: str = "ViT-B-32",
        pretrained: bool | str = False,
        image_size: int | None = None,
        fit: Fit | None = None,
        pool: Literal["mean", "max"] = "mean",
        stages: Sequence[int] | None = None,
        config: dict[str, Any] | None = None,
        white_level: WhiteLevel = None,
        positions: PositionKind = "auto",
    ) -> None:
        if config is not None and pretrained:
            raise ValueError(BOTH)
        if image_size is not None:
            check_positive(image_size=image_size)
        full = read_config(name, pretrained) if config is None else config
        model: Any = load_tower("image", name, pretrained, full, image_size).eval()
        if getattr(model, "proj", None) is not None:
            model.proj = None  # a parameter, and no module that `prune` could remove
        size = image_size or full["vision_cfg"].get("image_size", 224)
        height, width = (size, size) if isinstance(size, int) else size
        zeros = torch.zeros(1, 3, height, width)
        count = len(_maps(model, zeros, None))
        check_stages(stages, count, name)
        self_stages = [stage % count for stage in (stages or [-1])]
        maps = prune(model, lambda: _together(model, zeros, self_stages))
        preprocess = full["preprocess_cfg"]
        super().__init__(
            dim=maps.shape[1],
            grid=(maps.shape[2], maps.shape[3]),
            transform=ImageTransform(
                (height, width),
                preprocess["interpolation"],
                fit or _FITS[preprocess["resize_mode"]],
                white_level=white_level,
            ),
            mean=tuple(preprocess["mean"]),
            std=tuple(preprocess["std"]),
        )
        self.model, self.pool, self.stages = model.train(), pool, self_stages
        self.positions = make_positions(positions, self.dim, pool, self.grid, model)
        parts = ("embed_dim", "quick_gelu", "vision_cfg", "preprocess_cfg")
        plain = {key: full[key] for key in parts if key in full}
        self.arguments.update(pretrained=False, config=plain)

    def encode(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        tokens = rows_of(_together(self.model, images, self.stages))
        return tokens, summary(tokens, mask, self.pool)


def _maps(model: Any, images: Tensor, stages: list[int] | None) -> list[Tensor]:
    """Maps (B, D, H, W), normalised where the tower normalises its tokens before pooling."""
    pools_first = getattr(model, "attn_pool", None) is not None
    outputs: list[Tensor] = model.forward_intermediates(
        images,
        indices=stages,
        # Its ResNets have this the wrong way round: they stop early by default.
        stop_early=not hasattr(model, "attnpool"),
        normalize_intermediates=not (pools_first or getattr(model, "final_ln_after_pool", False)),
        intermediates_only=True,
    )["image_intermediates"]
    return outputs


def _together(model: Any, images: Tensor, stages: list[int]) -> Tensor:
    outputs = _maps(model, images, stages)
    place = sorted(set(stages))  # they come in the model's order
    return side_by_side([outputs[place.index(stage)] for stage in stages])
