"""A frozen image encoder, whose features may be made once and kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch import Tensor

from vlm.core.features import Features, Several
from vlm.core.host import HostCopy
from vlm.core.version import __version__
from vlm.data.images.store import Images
from vlm.datasets.errors import DataError
from vlm.image.base import ImageEncoder, PixelEncoder
from vlm.image.positions import PREFIX


class BlankFeatures:
    """What a frozen encoder makes of an image that shows nothing, in the place of every image."""

    def __init__(self, encoder: PixelEncoder) -> None:
        self.features = Features(*encode(encoder, encoder.transform.blank(1)).read())

    def read(self, paths: Sequence[str], questions: Sequence[str]) -> Features:
        return self.features.take(torch.zeros(len(paths), dtype=torch.long))


def check_cacheable(folder: str | None, encoder: ImageEncoder) -> tuple[Path, PixelEncoder]:
    """The folder for the features, and the encoder that makes them.

    Raises:
        DataError: no folder, or an encoder of regions, which are features already.
    """
    if folder is None or not isinstance(encoder, PixelEncoder):
        raise DataError(
            f"data.images.features: got {folder} for {type(encoder).__name__}; expected a folder, "
            f"and an encoder of images."
        )
    return Path(folder), encoder


def check_frozen(
    folder: str, encoder: ImageEncoder, layers: Sequence[Any], strategy: Strategy
) -> None:
    """Check that the encoder, or one of those inside it, stays as it is in a training of `layers`
    (`...finetuning.plan.Layer`).

    Raises:
        DataError: the image encoder is trained, now or in a later epoch; or it is divided over
            processes, of which one alone could not encode.
    """
    got = f"data.images.features: got {folder}, and "
    if not frozen_parts(encoder, layers):
        raise DataError(
            f"{got}the image encoder is trained, so that its features would not stay the same. "
            f"Freeze it with --model.tuning.image_encoder.frozen=true, or leave "
            f"data.images.features out."
        )
    if isinstance(strategy, ModelParallelStrategy):
        raise DataError(
            f"{got}trainer.strategy divides the model over the processes, so that none could "
            f"encode; expected ddp, or no features."
        )


def frozen_parts(encoder: ImageEncoder, layers: Sequence[Any]) -> list[str]:
    """Of the encoders inside one (`PixelEncoder.parts`), the names of those of which `layers` train
    nothing; "" is the encoder itself, if it has none inside."""
    trained = [n for layer in layers if layer.part == "image_encoder" for n in layer.names]
    parts = encoder.parts() if isinstance(encoder, PixelEncoder) else {}
    if parts:
        return [part for part in parts if not _any_in(trained, f"image_encoder.{part}.")]
    new = f"image_encoder.{PREFIX}"
    return [""] if all(name.startswith(new) for name in trained) else []


def sees_images(encoder: ImageEncoder, layers: Sequence[Any]) -> bool:
    """Whether an encoder whose frozen parts' features are kept has others, which see the images."""
    parts = encoder.parts() if isinstance(encoder, PixelEncoder) else {}
    return 0 < len(frozen_parts(encoder, layers)) < len(parts)


def _any_in(names: Sequence[str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)


class SeveralImages:
    """What the encoders of one that has several are given of each image; see `Several`."""

    def __init__(self, images: Images | None, known: Sequence[Images | None]) -> None:
        self.images, self.known = images, known

    def read(self, paths: Sequence[str], questions: Sequence[str]) -> Several:
        images = None if self.images is None else self.images.read(paths, questions)
        known = [None if each is None else each.read(paths, questions) for each in self.known]
        return Several(cast(Tensor, images), cast(tuple[Features], tuple(known)))


def kept_images(
    encoder: PixelEncoder,
    layers: Sequence[Any],
    keep: Callable[[PixelEncoder], Images],
    see: Callable[[], Images],
) -> Images:
    """The features of an encoder; of one that has several, those of the ones of which `layers`
    train nothing (if there are none, of all), and images for the others.

    Args:
        keep: the features of an encoder.
        see: the images.
    """
    parts = encoder.parts()
    if not parts:
        return keep(encoder)
    chosen = frozen_parts(encoder, layers) or list(parts)
    known = [keep(part) if name in chosen else None for name, part in parts.items()]
    return SeveralImages(see() if len(chosen) < len(parts) else None, known)


def describe(encoder: PixelEncoder) -> dict[str, str]:
    """What the features of an image depend on, beside the image."""
    state, config = hashlib.sha256(), encoder.config
    config["init_args"].pop("positions", None)
    tensors = [*encoder.named_parameters(), *encoder.named_buffers()]
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        if name.startswith(PREFIX):
            continue  # they enter after the features, and are trained
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        state.update(flat.view(torch.uint8).numpy().data)
    return {
        "vlm": __version__,
        "features": "tokens, mask, pooled, boxes",
        "encoder": json.dumps(config, sort_keys=True),
        "transform": repr(encoder.transform),
        "grid": repr(encoder.grid),
        "weights": state.hexdigest(),
    }


def encoder_digest(encoder: PixelEncoder) -> str:
    """Another one for other weights, another configuration or another preprocessing."""
    return hashlib.sha256(json.dumps(describe(encoder), sort_keys=True).encode()).hexdigest()


def encode(encoder: PixelEncoder, images: Tensor) -> HostCopy:
    """Tokens, mask, pooled vectors and boxes of images as in evaluation, float32."""
    device = encoder.mean.device
    if device.type == "cuda":  # the copy need not wait then
        images = images.pin_memory()
    modes = [(part, part.training) for part in encoder.modules()]
    encoder.eval()
    try:
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            tokens, mask, pooled, boxes = encoder.look(images.to(device, non_blocking=True))
            assert boxes is not None
            return HostCopy(tokens.float(), mask, pooled.float(), boxes.float())
    finally:
        for part, mode in modes:
            part.train(mode)  # from the whole to its parts; torchvision's chooses its graph by it
