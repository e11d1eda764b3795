"""LLaVA and SmolVLM (Idefics3) as parts of vlm, and back: image encoder, connector, language model.

The image encoder's modules are those of transformers, so that its weights fit by name.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from vlm.adapters.folder import INDEX, PATTERNS, read_image_text_to_text
from vlm.checkpoint.sharing import file_inside
from vlm.core.safe_config import model_of
from vlm.fusion import Fusion, PixelShuffle, Projector
from vlm.heads.generation.head import Generation
from vlm.heads.generation.language_model import LanguageModel
from vlm.image.base import PixelEncoder
from vlm.image.grid import summary
from vlm.image.transform import Fit, ImageTransform, Interpolation
from vlm.model import VQAModel
from vlm.pretrained.pruning import config_of, prune, stored_config
from vlm.text.prompt import Prompt

TOWERS = ("clip_vision_model", "idefics3_vision", "siglip_vision_model", "smolvlm_vision")
TEXTS = (
    "gemma", "gemma2", "gemma3_text", "granite", "helium", "llama", "mistral", "olmo", "olmo2",
    "opt", "phi", "phi3", "qwen2", "qwen3", "smollm3", "stablelm", "starcoder2", "xglm",
)  # fmt: skip
"""Kinds of text models whose weights have the names of Llama's: `model.` and `lm_head.`."""
FILTERS: dict[int, Interpolation] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's filters by their numbers."""
CLASSES = (
    "Idefics3ForConditionalGeneration",
    "LlavaForConditionalGeneration",
    "SmolVLMForConditionalGeneration",
)
"""The models that can be converted."""
LLAVA = {
    "image_encoder.model.": "model.vision_tower.",
    "fusion.image_projection.0.": "model.multi_modal_projector.linear_1.",
    "fusion.image_projection.2.": "model.multi_modal_projector.linear_2.",
    "head.decoder.model.lm_head.": "lm_head.",
    "head.decoder.model.model.": "model.language_model.",
}
IDEFICS3 = {
    "image_encoder.model.": "model.vision_model.",
    "fusion.image_projection.0.": "model.connector.modality_projection.proj.",
    "head.decoder.model.lm_head.": "lm_head.",
    "head.decoder.model.model.": "model.text_model.",
}
"""How weights are called here and there. The layer of `fusion` for words is ours alone."""
GENTLE = {
    "optimizer": {
        "class_path": "torch.optim.AdamW",
        "init_args": {"lr": 1e-4, "weight_decay": 0.0},
    },
    "schedule": {"class_path": "vlm.training.WarmupCosine", "init_args": {"warmup": 0.03}},
}
"""Settings for a trained model; a training from scratch takes steps thirty times as long."""


class VisionTower(PixelEncoder):
    """The vision transformer of an image-text-to-text model; `pooled` is the mean of the patches.

    Args:
        config: configuration of the model in transformers, as `to_dict()` gives it.
        layer: index of the hidden state that gives the tokens, -1 for the last layer; None for the
            model's output, which is normalised. The first token of CLIP, the class token, is left
            out.
        mean, std: mean and standard deviation of the colour channels, on the scale 0 to 1.
        interpolation: filter for the resizing.
        fit: how an image is brought to the input's size; see `ImageTransform`.

    Example:
        >>> config = {"model_type": "siglip_vision_model", "image_size": 64, "patch_size": 16}
        >>> config |= {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}
        >>> encoder = vlm.adapters.VisionTower(config | {"num_hidden_layers": 1})
        >>> encoder(torch.rand(2, 3, 64, 64))
        Features(2 x 16 x 32, 16 real, boxes)
    """

    stored: ClassVar = {"config": model_of(TOWERS)}

    def __init__(
        self,
        config: dict[str, Any],
        layer: int | None = None,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        interpolation: Interpolation = "bicubic",
        fit: Fit = "squash",
    ) -> None:
        from transformers import AutoModel

        made = config_of(config)
        made.vision_use_head = False  # SigLIP's pooling, which nothing here reads
        side = made.image_size // made.patch_size
        transform = ImageTransform((made.image_size,) * 2, interpolation, fit)
        super().__init__(made.hidden_size, (side, side), transform, tuple(mean), tuple(std))
        self.layer, self.class_tokens = layer, int(made.model_type == "clip_vision_model")
        model: Any = AutoModel.from_config(made, dtype=torch.float32)
        self.model = model.eval()
        prune(model, lambda: self._tokens(torch.zeros(1, 3, *transform.size)))
        self.model.train()

    def _tokens(self, images: Tensor) -> Tensor:
        output = self.model(pixel_values=images, output_hidden_states=self.layer is not None)
        found = output.last_hidden_state if self.layer is None else output.hidden_states[self.layer]
        tokens: Tensor = found[:, self.class_tokens :]
        return tokens

    def encode(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self._tokens(images)
        return tokens, summary(tokens, mask, "mean")


def read_connected(folder: Path, name: str) -> tuple[VQAModel, dict[str, Any]]:
    """A LLaVA or SmolVLM model in our parts, and how a configuration file names these parts.

    An image goes in as a whole, in one size: it is not split into tiles.

    Raises:
        OSError: a file is not there.
        ValueError: a model that is made of other parts, or whose files are damaged.
    """
    vqa = read_image_text_to_text(folder, name)
    theirs, images = vqa.model, vqa.processor.image_processor
    config = theirs.config
    vision, text = config.vision_config, config.get_text_config()
    for part, kind, kinds in (
        ("image encoder", vision.model_type, TOWERS),
        ("text model", text.model_type, TEXTS),
    ):
        if kind not in kinds:
            raise ValueError(
                f"{name}: {part}: got {kind!r}; expected one of {', '.join(kinds)}. vlm.load asks "
                f"this model without converting it."
            )
    layer, out_dim = None, text.hidden_size
    connector: dict[str, Any] = {"out_dim": out_dim}
    made: type[Fusion] = Projector
    if config.model_type == "llava":
        layer = config.vision_feature_layer
        expected = ("gelu", "default" if vision.model_type == "clip_vision_model" else "full")
        got = (config.projector_hidden_act, config.vision_feature_select_strategy)
        if not isinstance(layer, int) or got != expected:
            raise ValueError(
                f"{name}: got the feature layer {layer} and {got}; expected one layer, and "
                f"{expected}."
            )
        connector |= {"num_layers": 2, "bias": config.multimodal_projector_bias}
    else:
        columns = vision.image_size // vision.patch_size
        made, connector = PixelShuffle, connector | {"factor": config.scale_factor}
        connector |= {"columns": columns}  # without which it takes one image alone
    tower: dict[str, Any] = {
        "config": stored_config(vision),
        "layer": layer,
        "mean": list(images.image_mean),
        "std": list(images.image_std),
        "interpolation": FILTERS.get(int(images.resample), "bicubic"),
        "fit": "crop" if getattr(images, "do_center_crop", False) else "squash",
    }
    encoder, prompt = VisionTower(**tower), Prompt(name=str(folder))
    decoder: dict[str, Any] = {"name": str(folder), "pretrained": False, "max_length": 20}
    head = Generation(out_dim, partial(LanguageModel, **decoder))
    model = VQAModel(encoder, prompt, made(encoder.dim, prompt.dim, **connector), head)
    state, names = theirs.state_dict(), _names(model)
    own = {_renamed(key, names): value for key, value in model.state_dict().items()}
    _copy({key: state[key] for key in own if key is not None}, own, name)
    return model.eval(), {
        "image_encoder": _part("vlm.adapters.VisionTower", tower),
        "text_encoder": _part("vlm.text.Prompt", {"name": str(folder)}),
        "fusion": _part(f"vlm.fusion.{made.__name__}", connector),
        "head": _part(
            "vlm.heads.Generation", {"decoder": _part("vlm.heads.LanguageModel", decoder)}
        ),
    }


def write_parts(parts: Mapping[str, Any], checkpoint: Path, path: Path) -> None:
    """Write the configuration with which `vlm fit` tunes a converted model."""
    import yaml

    tuning = {"init_from": str(checkpoint), "image_encoder": {"frozen": True}}
    model = {**parts, **GENTLE, "tuning": tuning}
    path.write_text(yaml.safe_dump({"model": model}, sort_keys=False), encoding="utf-8")


def write_back(model: VQAModel, source: Path, folder: Path) -> None:
    """Write a model that was converted from `source` in its format, with its other files.

    Raises:
        ValueError: a model of other parts or sizes, or a folder that is not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder}: not empty; expected a new or empty folder.")
    theirs = read_image_text_to_text(source, str(source)).model
    state, names = theirs.state_dict(), _names(model)
    weights = {}
    for own, value in model.state_dict().items():
        if (their := _renamed(own, names)) is None:
            continue
        if their not in state or state[their].shape != value.shape:
            raise ValueError(f"{own} does not fit {source}; expected the model it was made of.")
        weights[their] = value
    _copy(weights, state, str(source))
    theirs.save_pretrained(folder)
    for pattern in PATTERNS:
        for file in source.glob(pattern):
            if file.suffix != ".safetensors" and file.name != INDEX:
                shutil.copy(file_inside(source, file.name), folder / file.name)


def _copy(weights: Mapping[str, Tensor], into: Mapping[Any, Tensor], name: str) -> None:
    with torch.no_grad():
        for key, value in weights.items():
            into[key].copy_(value)
    for key, value in weights.items():
        if not into[key].equal(value):
            raise ValueError(
                f"{name}: {key}: got other values than a weight that config.json ties it to; "
                f"expected the same, or tie_word_embeddings: false. Correct config.json."
            )


def _names(model: VQAModel) -> dict[str, str]:
    return IDEFICS3 if isinstance(model.fusion, PixelShuffle) else LLAVA


def _renamed(own: str, names: Mapping[str, str]) -> str | None:
    """Their name of a weight; None for one that they have not."""
    if own.startswith("fusion.text_projection."):
        return None
    for ours, theirs in names.items():
        if own.startswith(ours):
            return theirs + own.removeprefix(ours)
    raise ValueError(f"got the weight {own}; expected a model that `vlm.adapters.convert` made.")


def _part(path: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {"class_path": path, "init_args": dict(arguments)}
