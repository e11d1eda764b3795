"""What fine-tuning did to an image encoder, measured on images it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vlm.core.terminal import track
from vlm.core.validation import counted
from vlm.data.datamodule import VQADataModule
from vlm.data.images.store import open_image
from vlm.datasets.base import ImageSource
from vlm.datasets.errors import DataError
from vlm.datasets.several import different_images
from vlm.image.base import PixelEncoder
from vlm.image.transform import ImageTransform
from vlm.studies.forgetting.cka import LEAST
from vlm.studies.forgetting.heads import Agreement, Head, agreement
from vlm.studies.forgetting.layers import Retention, layer_cka, layer_grams, layer_modules

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"}


@dataclass(frozen=True)
class Images:
    """Images that are opened when used.

    `about` says where they are from; `source` maps a name to a path or a file's content, or is None
    if the names are paths.
    """

    names: list[str]
    about: str
    source: ImageSource | None = None

    def load(self, names: Sequence[str], transform: ImageTransform) -> Tensor:
        """Load a batch of these images."""
        return transform.stack([transform(open_image(name, self.source)) for name in names])


def split(items: Sequence[str], size: int) -> list[list[str]]:
    """Split into parts of nearly equal size, none larger than `size`."""
    return [
        part.tolist() for part in np.array_split(np.array(items, object), -(-len(items) // size))
    ]


def folder_images(folder: Path, most: int) -> Images:
    """The images in a folder and its subfolders; if there are more than `most`, that many at equal
    distances in order of name."""
    if not folder.is_dir():
        raise DataError(f"--photos: {folder} is no folder; expected one with images in it.")
    found = sorted(str(p) for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    return _some(found, most, f"of the folder {folder.name}", None)


def test_images(data: VQADataModule, most: int) -> Images:
    """The images of a data set's test split, chosen the same way."""
    name = type(data.dataset).__name__
    if not data.has("test") or data.images.regions is not None:
        raise DataError(f"{name} has no test images here; name a folder with --photos.")
    images = sorted(different_images(data.table("test")["image"]).to_pylist())
    return _some(images, most, f"of the test split of {name}", data.open_images.source)


def _some(names: list[str], most: int, about: str, source: ImageSource | None) -> Images:
    if len(names) < 2 * LEAST:
        found = counted(len(names), "image")
        raise DataError(f"--photos: got {found} {about}; expected {2 * LEAST} or more.")
    if len(names) > most:
        chosen = np.linspace(0, len(names) - 1, most).round().astype(int)
        about = f"{about}, of {len(names):,} at equal distances"
        names = [names[i] for i in chosen]
    return Images(names, about, source)


@dataclass(frozen=True)
class ImageRetention(Retention):
    """What an image encoder retained; `agreement` is None without a head."""

    agreement: Agreement | None


class ImageMeasure:
    """Compares image encoders with an original, which runs only once.

    `head` is the original's classifier or a probe, or None; `batch_size` is at least 8.
    """

    def __init__(
        self, before: PixelEncoder, images: Images, head: Head | None, batch_size: int
    ) -> None:
        self.images, self.head, self.batch_size = images, head, batch_size
        blank = before.transform.blank(1).to(before.mean.device)
        self.layers = layer_modules(before.eval(), partial(before.look, blank))
        self._before = self._run(before, "the original image encoder")

    def retention(self, encoder: PixelEncoder, name: str) -> ImageRetention:
        """Measure an encoder of the same architecture; `name` is for the progress bar."""
        (old, old_logits), (new, new_logits) = self._before, self._run(encoder, name)
        agreed = agreement(torch.cat(old_logits), torch.cat(new_logits)) if self.head else None
        return ImageRetention(layer_cka(self.layers, old, new), agreed)

    def _run(self, encoder: PixelEncoder, name: str) -> tuple[list[list[Tensor]], list[Tensor]]:
        """Gram matrices by batch, and the head's logits."""
        encoder.eval()
        grams, logits = [], []
        batches = split(self.images.names, self.batch_size)
        for names in track(batches, f"Images: {name}"):
            images = self.images.load(names, encoder.transform).to(encoder.mean.device)
            # Every cell and channel is a feature of the image, as in the paper.
            grams.append(layer_grams(encoder, self.layers, partial(encoder.look, images))[0])
            if self.head is not None:
                with torch.inference_mode():
                    logits.append(self.head.logits(encoder, images).float().cpu())
        return grams, logits
