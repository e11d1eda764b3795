"""Classes predicted from an image encoder's features, by its original head or a linear probe.

The head was trained on the original features and stays fixed. If it predicts another class than
before, the features have lost that information.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vlm.core.validation import counted
from vlm.image.base import PixelEncoder
from vlm.image.timm import TimmEncoder, timm_classifier
from vlm.image.torchvision import TorchvisionEncoder, torchvision_classifier
from vlm.studies.forgetting.original import Original

TOP = 5
"""Classes whose overlap is measured."""
PROBE = "weight (classes, width) and bias (classes)"


class HeadError(ValueError):
    """There is no head for this encoder; the message says why and what to do."""


class OriginalHead:
    """The classifier that came with the encoder's weights and that the encoder leaves out.

    `model` is the whole classification model.
    """

    about = "its own classifier"

    def __init__(self, model: nn.Module, encoder: PixelEncoder) -> None:
        self.model = model.eval()
        known = self.model.state_dict()
        if strange := [name for name in _inner(encoder) if name not in known]:
            raise HeadError(
                f"the classifier of this model does not fit its encoder, which has {strange[0]} "
                f"beside it; give --probe."
            )

    def logits(self, encoder: PixelEncoder, images: Tensor) -> Tensor:
        """Logits (B, K) of images (B, ...) prepared by the encoder's transform."""
        normalised, _ = encoder.normalised(images)
        # The whole model with the encoder's weights; the rest stays unchanged.
        found: Tensor = torch.func.functional_call(self.model, _inner(encoder), (normalised,))
        return found


def _inner(encoder: PixelEncoder) -> dict[str, Tensor]:
    state: dict[str, Tensor] = encoder.model.state_dict()  # type: ignore[union-attr]  # timm, torchvision
    return state


def original_head(original: Original) -> OriginalHead:
    """The classifier of an image encoder's original weights; a `HeadError` if it has none."""
    encoder, given = original.encoder, original.arguments
    if not given or not isinstance(encoder, (TimmEncoder, TorchvisionEncoder)):
        raise HeadError(
            f"{type(encoder).__name__} from {original.source} has no classifier; give --probe."
        )
    make = timm_classifier if isinstance(encoder, TimmEncoder) else torchvision_classifier
    sizes = {"image_size": given["image_size"], "model_args": given["model_args"]}
    try:
        model = make(given["name"], given["pretrained"], **sizes)
    except ValueError as error:
        raise HeadError(
            f"{original.source} holds no classifier of {given['name']} ({error}); give --probe."
        ) from error
    return OriginalHead(model, encoder)


class Probe:
    """A linear probe of `pooled`, trained on the original encoder: a .safetensors file with
    `weight` (K, D) and `bias` (K), K at least 2."""

    def __init__(self, path: str | Path) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        self.about = f"the probe {Path(path).name}"
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise HeadError(
                f"--probe: {path} cannot be read ({error}); expected a .safetensors with {PROBE}."
            ) from error
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        weight = shapes.get("weight", ())
        if set(shapes) != {"weight", "bias"} or len(weight) != 2 or shapes["bias"] != weight[:1]:
            raise HeadError(f"--probe: {path} holds {shapes}; expected {PROBE}.")
        if weight[0] < 2:
            found = counted(weight[0], "class")
            raise HeadError(f"--probe: {path} has {found}; expected two or more.")
        self.weight, self.bias = tensors["weight"].float(), tensors["bias"].float()

    def check(self, encoder: PixelEncoder) -> None:
        """Raise a HeadError if the probe's width does not match."""
        if (width := self.weight.shape[1]) != encoder.dim:
            raise HeadError(
                f"--probe: got weights for features {width} wide; {type(encoder).__name__} gives "
                f"{encoder.dim}. Train the probe on its `pooled`."
            )

    def logits(self, encoder: PixelEncoder, images: Tensor) -> Tensor:
        """Like `OriginalHead.logits`."""
        pooled = encoder.look(images).pooled
        return pooled @ self.weight.to(pooled).mT + self.bias.to(pooled)


Head = OriginalHead | Probe


class Agreement(NamedTuple):
    """How a head's predictions after fine-tuning compare with those before.

    Attributes:
        same: for each image, 1 if its most likely class is the same, else 0.
        top: share of the 5 most likely classes (or all but one, if there are fewer) that stay
            among them, averaged over images, in [0, 1].
        divergence: Kullback-Leibler divergence of the class probabilities after from those before,
            averaged over images, in nats; 0 if they are the same.
    """

    same: Sequence[float]
    top: float
    divergence: float

    @property
    def share(self) -> float:
        """Share of images whose most likely class is the same."""
        return sum(self.same) / len(self.same)


def agreement(before: Tensor, after: Tensor) -> Agreement:
    """Compare logits (N, K) of the same images."""
    k = min(TOP, before.shape[1] - 1)
    same = (before.argmax(1) == after.argmax(1)).double()
    tops = [logits.topk(k, 1).indices for logits in (before, after)]
    kept = (tops[0][:, :, None] == tops[1][:, None]).any(2).double().mean()
    logs = [logits.double().log_softmax(1) for logits in (before, after)]
    divergence = (logs[0].exp() * (logs[0] - logs[1])).sum(1).mean()
    return Agreement(same.tolist(), float(kept), float(divergence))
