"""The same questions asked otherwise, and the same images in worse shape."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any
from unicodedata import category

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from vlm.core.features import Features
from vlm.data.augmentation.meaning import EXCHANGED, exchange
from vlm.data.augmentation.typos import TYPOS, Typo, with_typo
from vlm.data.images.store import Images

SEVERITIES = (1, 2, 3, 4, 5)


def _typo(typo: Typo) -> Callable[[str], str]:
    """One mistake, always the same for one question."""
    return lambda question: with_typo(question, typo, random.Random(question))


def _without_punctuation(question: str) -> str:
    """Without what Unicode calls punctuation, but for that inside a number."""
    kept = (
        letter
        for before, letter, after in zip(f" {question}", question, f"{question[1:]} ", strict=False)
        if not category(letter).startswith("P") or (before.isdigit() and after.isdigit())
    )
    return "".join(kept).strip() or question


WORDINGS: dict[str, Callable[[str], str]] = {
    "upper case": str.upper,
    "no punctuation": _without_punctuation,
    **{name: _typo(typo) for name, typo in TYPOS.items()},
}
"""Changes that leave the right answer as it is, by name."""


def _noise(images: Tensor, sigma: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(images.shape, generator=generator) * sigma * 255
    return (images + noise).clamp(0, 255).to(torch.uint8)


def _blur(images: Tensor, share: float) -> Tensor:
    sigma = share * images.shape[-1]
    size = 2 * max(1, round(2 * sigma)) + 1
    return F.gaussian_blur(images, [size, size], [sigma, sigma])


def _pixelate(images: Tensor, share: float) -> Tensor:
    height, width = images.shape[-2:]
    small = [max(1, round(side * share)) for side in (height, width)]
    return F.resize(F.resize(images, small), [height, width], F.InterpolationMode.NEAREST)


def _jpeg(images: Tensor, quality: float) -> Tensor:
    found = []
    for image in images:
        file = BytesIO()
        F.to_pil_image(image).save(file, "JPEG", quality=int(quality))
        found.append(F.pil_to_tensor(Image.open(file)))
    return torch.stack(found)


def _crop(images: Tensor, share: float) -> Tensor:
    height, width = images.shape[-2:]
    middle = F.center_crop(images, [max(1, round(share * side)) for side in (height, width)])
    return F.resize(middle, [height, width])


CORRUPTIONS: dict[str, tuple[Callable[[Tensor, float], Tensor], Sequence[float]]] = {
    "gaussian noise": (_noise, (0.04, 0.08, 0.12, 0.18, 0.26)),
    "gaussian blur": (_blur, (0.005, 0.01, 0.015, 0.02, 0.03)),
    "pixelate": (_pixelate, (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg": (_jpeg, (25, 18, 15, 10, 7)),
    "brightness": (F.adjust_brightness, (1.2, 1.4, 1.6, 1.8, 2.0)),
    "contrast": (F.adjust_contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
    "saturation": (F.adjust_saturation, (0.5, 0.25, 0.0, 5.0, 20.0)),
    "crop": (_crop, (0.95, 0.9, 0.85, 0.8, 0.7)),
}
"""Kinds of ImageNet-C (Hendrycks & Dietterich 2019) that torchvision has, with a strength for each
severity: noise in shares of full scale, blur in shares of the width, the size left, the quality of
JPEG, factors; and a crop, of which the share of each side is left."""


class Changed:
    """Images of the model's input size, changed.

    Args:
        images: the images as they are.
        change: from images (U, 3, H, W) uint8 to such images.

    Raises:
        ValueError: the images are features of regions, which have no pixels.
    """

    def __init__(self, images: Images, change: Callable[[Tensor], Tensor]) -> None:
        self.images, self.change = images, change

    def read(self, paths: Sequence[str], questions: Sequence[str]) -> Any:
        """The changed images (U, 3, H, W), or a list of them."""
        found: Any = self.images.read(paths, questions)
        if isinstance(found, list):  # PIL images of any size
            changed = [self.change(F.pil_to_tensor(image)[None])[0] for image in found]
            return [F.to_pil_image(image) for image in changed]
        if isinstance(found, Features):
            raise ValueError("images: got features of regions; expected images to change.")
        return self.change(found)


def corrupted(images: Images, kind: str, severity: int) -> Changed:
    """The images with one of `CORRUPTIONS`, of a severity from 1 to 5."""
    change, strengths = CORRUPTIONS[kind]
    return Changed(images, lambda found: change(found, strengths[severity - 1]))


SIDES = {word: other for words in EXCHANGED.values() for word, other in words.items()}
"""Left and right in every language that is known, each word with its opposite."""


def mirrored_text(text: str) -> str:
    """A question or an answer about the mirrored image."""
    return exchange(text, SIDES)
