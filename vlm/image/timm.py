"""Any image model of timm."""

from __future__ import annotations

import difflib
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor

from vlm.hub import hub_access, prune
from vlm.image.base import PictureEncoder
from vlm.image.transform import ImageTransform

_WHERE_WEIGHTS_COME_FROM = {"checkpoint_path", "cache_dir", "pretrained_cfg_overlay"}


class TimmEncoder(PictureEncoder):
    """A convolutional network or vision transformer of timm, by name.

    Tokens are what the model's `forward_features` gives, without class tokens and registers;
    `pooled` is their mean or maximum. Heads and poolers are removed, hence also a normalisation
    that the model applies after its own pooling (ConvNeXt, "gap" transformers).

    After construction `arguments` names the exact weights' recipe (`resnet18.a1_in1k`) and says
    `pretrained=False`: a rebuilt encoder gets its weights from the checkpoint.

    Args:
        name: a name of `timm.list_models()`, with or without the tag of its weights.
        pretrained: load the weights of the Hugging Face hub.
        image_size: height and width of the input in pixels; the model's own if None.
        model_args: further arguments of `timm.create_model`, plain data: a small transformer
            from scratch is `{"img_size": 64, "patch_size": 8, "embed_dim": 96, "depth": 4,
            "num_heads": 3}` with "vit_tiny_patch16_224".
        fit: how a photo comes to the input's size. "crop" cuts the middle out, as timm does in
            classification; "squash" keeps the whole photo; None is the model's own way.
        pool: "mean" of the tokens, as most weights were trained, or "max": an object counts
            wherever it lies, so that a transformer from scratch learns it much sooner.

    Raises:
        ValueError: an unknown name or tag, sizes that disagree, or a model without a grid.
        OSError: the weights are neither in the cache nor to be had.
    """

    model: Any

    def __init__(
        self,
        name: str = "vit_tiny_patch16_224",
        pretrained: bool = False,
        image_size: int | None = None,
        model_args: dict[str, Any] | None = None,
        fit: Literal["crop", "squash"] | None = None,
        pool: Literal["mean", "max"] = "mean",
    ) -> None:
        from timm.data import resolve_model_data_config

        if pool not in ("mean", "max"):
            raise ValueError(f"pool: got {pool!r}; wanted 'mean' or 'max'.")
        model_args = dict(model_args or {})
        if image_size is not None and model_args.setdefault("img_size", image_size) != image_size:
            raise ValueError(
                f"image_size: got {image_size}, but img_size={model_args['img_size']} in "
                f"model_args; give one of the two."
            )
        model = _create(name, pretrained, model_args)
        data = resolve_model_data_config(model)
        size = model_args.get("img_size") or data["input_size"][1:]
        height, width = (size, size) if isinstance(size, int) else size

        model.eval()  # a batch of one, and no statistics of batch normalisation from zeros
        zeros = torch.zeros(1, 3, height, width)
        tokens = prune(model, lambda: _tokens(model, model.forward_features(zeros), name))
        super().__init__(
            dim=tokens.shape[2],
            grid=_grid(tokens.shape[1], height, width, name),
            transform=_transform((height, width), data, fit),
            mean=data["mean"],
            std=data["std"],
        )
        self.model, self.pool = model.train(), pool
        recipe = model.pretrained_cfg
        if recipe.get("tag"):
            self.arguments["name"] = f"{recipe['architecture']}.{recipe['tag']}"
        self.arguments["pretrained"] = False
        for key in _WHERE_WEIGHTS_COME_FROM & model_args.keys():
            del model_args[key]
        self.arguments["model_args"] = model_args

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        tokens = _tokens(self.model, self.model.forward_features(images), type(self).__name__)
        return tokens, tokens.mean(1) if self.pool == "mean" else tokens.amax(1)


def _create(name: str, pretrained: bool, model_args: dict[str, Any]) -> Any:
    import timm

    if not timm.is_model(name):
        near = difflib.get_close_matches(name.partition(".")[0], timm.list_models(), 3, 0.4)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"name: got {name!r}, which is no model of timm.{hint}")
    with hub_access(name) if pretrained else nullcontext():
        try:
            return _with_size(name, pretrained, model_args)
        except RuntimeError as error:
            if "Invalid pretrained tag" not in str(error):
                raise
            tags = timm.list_pretrained(name.partition(".")[0])
            raise ValueError(f"name: got {name!r}; this timm has {' and '.join(tags)}.") from error


def _with_size(name: str, pretrained: bool, model_args: dict[str, Any]) -> Any:
    import timm

    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, **model_args)
    except TypeError as error:
        if "'img_size'" not in str(error):
            raise
        # A model for any size, that need not be told.
        rest = {key: value for key, value in model_args.items() if key != "img_size"}
        return timm.create_model(name, pretrained=pretrained, num_classes=0, **rest)


def _tokens(model: Any, features: Any, name: str) -> Tensor:
    """The output of `forward_features` -> (B, P, D), row by row, without prefix tokens."""
    if isinstance(features, Tensor) and features.ndim == 3:  # (B, prefix + P, D)
        classes = getattr(model, "cls_token", None)
        if not hasattr(model, "num_prefix_tokens") and classes is not None:
            raise ValueError(
                f"{name}: its forward_features gives class tokens and no patches that could be "
                f"told from them. Choose another model."
            )
        return features[:, getattr(model, "num_prefix_tokens", 0) :]
    if isinstance(features, Tensor) and features.ndim == 4:
        if getattr(model, "output_fmt", "NCHW") == "NHWC":
            return features.flatten(1, 2)  # (B, H, W, D) -> (B, P, D)
        return features.flatten(2).mT  # (B, D, H, W) -> (B, P, D)
    raise ValueError(
        f"{name}: its forward_features gives {type(features).__name__}, which has no one grid of "
        f"tokens; wanted a tensor (B, N, D), (B, D, H, W) or (B, H, W, D). Choose another model."
    )


def _grid(tokens: int, height: int, width: int, name: str) -> tuple[int, int]:
    """Rows and columns of so many tokens in the proportions of the input."""
    rows = max(round((tokens * height / width) ** 0.5), 1)
    if rows * (tokens // rows) != tokens or abs(rows * width - tokens // rows * height) > max(
        height, width
    ):
        raise ValueError(
            f"{name}: its {tokens} tokens are no grid over {height} x {width} pixels; choose "
            f"another model or image_size."
        )
    return rows, tokens // rows


def _transform(
    size: tuple[int, int], data: dict[str, Any], fit: Literal["crop", "squash"] | None
) -> ImageTransform:
    known = ("bilinear", "bicubic", "lanczos", "nearest")
    interpolation: Any = data["interpolation"] if data["interpolation"] in known else "bicubic"
    if fit is None:
        fit = "squash" if data["crop_mode"] == "squash" else "crop"
    share = data["crop_pct"] if fit == "crop" else 1.0
    return ImageTransform(size, interpolation, fit, share)
