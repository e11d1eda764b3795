"""What fine-tuning did to an image encoder, seen on photos that it was not trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor

from vlm.data.datamodule import VQADataModule
from vlm.data.images.store import open_image
from vlm.datasets.base import ImageSource
from vlm.datasets.errors import DataError
from vlm.image.base import PictureEncoder
from vlm.image.transform import ImageTransform
from vlm.studies.forgetting.cka import LEAST, cka
from vlm.studies.forgetting.heads import Agreement, Head, agreement
from vlm.studies.forgetting.layers import layer_grams, layer_modules

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"}


@dataclass(frozen=True)
class Photos:
    """Photos, opened when they are looked at.

    Attributes:
        names: of the pictures.
        about: where they are from, in words.
        source: from a name to a path or a file's content; None if the names are paths.
    """

    names: list[str]
    about: str
    source: ImageSource | None = None

    def batches(self, transform: ImageTransform, size: int) -> Iterator[Tensor]:
        """In batches of nearly equal size, none larger than `size`.

        Raises:
            ImageError: a picture that cannot be read.
        """
        for part in split(self.names, size):
            yield transform.stack([transform(open_image(n, self.source)) for n in part])


def split(items: Sequence[str], size: int) -> list[list[str]]:
    """Parts of nearly equal size, none larger than `size`."""
    return [
        part.tolist() for part in np.array_split(np.array(items, object), -(-len(items) // size))
    ]


def folder_photos(folder: Path, most: int) -> Photos:
    """The pictures in a folder and the folders in it; if there are more than `most`, so many at
    equal distances in the order of their names.

    Raises:
        DataError: no folder, or too few pictures in it.
    """
    if not folder.is_dir():
        raise DataError(f"--photos: {folder} is no folder; expected one with photos in it.")
    found = sorted(str(p) for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    return _some(found, most, f"of the folder {folder.name}", None)


def test_photos(data: VQADataModule, most: int) -> Photos:
    """The pictures of a data set's test split, chosen likewise.

    Raises:
        DataError: no test split, no pictures in it, or too few.
    """
    name = type(data.dataset).__name__
    if not data.has("test") or data.images.regions is not None:
        raise DataError(f"{name} has no test pictures here; name a folder with --photos.")
    images = sorted(data.table("test")["image"].unique().to_pylist())
    return _some(images, most, f"of the test split of {name}", data.open_images.source)


def _some(names: list[str], most: int, about: str, source: ImageSource | None) -> Photos:
    if len(names) < 2 * LEAST:
        raise DataError(
            f"--photos: got {len(names)} pictures {about}; expected {2 * LEAST} or more."
        )
    if len(names) > most:
        chosen = np.linspace(0, len(names) - 1, most).round().astype(int)
        about = f"{about}, of {len(names):,} at equal distances"
        names = [names[i] for i in chosen]
    return Photos(names, about, source)


class PictureRetention(NamedTuple):
    """What an image encoder kept.

    Attributes:
        cka: of each layer, by the name of its module, from the input to the output.
        agreement: of the head; None without one.
    """

    cka: dict[str, float]
    agreement: Agreement | None

    @property
    def last(self) -> float:
        """CKA of the last layer."""
        return list(self.cka.values())[-1]


class _View(NamedTuple):
    grams: list[list[Tensor]]  # by layer, then by batch
    logits: Tensor | None


class PictureMeasure:
    """Compares image encoders with an original, which is looked at once.

    Args:
        before: the original.
        photos: that are shown to all.
        head: of the original, or a probe of it; None to go without.
        batch_size: photos that are looked at together; at least 8.
    """

    def __init__(
        self, before: PictureEncoder, photos: Photos, head: Head | None, batch_size: int
    ) -> None:
        self.photos, self.head, self.batch_size = photos, head, batch_size
        blank = before.transform.blank(1)
        with torch.inference_mode():
            self.layers = layer_modules(before.eval(), lambda: before(_moved(blank, before)))
        self._before = self._look(before, "the original image encoder")

    def retention(self, encoder: PictureEncoder, name: str) -> PictureRetention:
        """Measure an encoder of the same architecture.

        Args:
            encoder: set to evaluation mode.
            name: for the progress bar.
        """
        after = self._look(encoder, name)
        found = [cka(a, b) for a, b in zip(self._before.grams, after.grams, strict=True)]
        agreed = None
        if self._before.logits is not None and after.logits is not None:
            agreed = agreement(self._before.logits, after.logits)
        return PictureRetention(dict(zip(self.layers, found, strict=True)), agreed)

    def _look(self, encoder: PictureEncoder, name: str) -> _View:
        encoder.eval()
        grams: list[list[Tensor]] = [[] for _ in self.layers]
        logits = []
        with Progress(transient=True) as progress:
            task = progress.add_task(f"Photos: {name}", total=len(self.photos.names))
            for images in self.photos.batches(encoder.transform, self.batch_size):
                images = _moved(images, encoder)
                found, _ = layer_grams(encoder, self.layers, partial(encoder, images), _all_cells)
                for layer, one in zip(grams, found, strict=True):
                    layer.append(one)
                if self.head is not None:
                    with torch.inference_mode():
                        logits.append(self.head.logits(encoder, images).float().cpu())
                progress.advance(task, len(images))
        return _View(grams, torch.cat(logits) if logits else None)


def _all_cells(output: Tensor) -> Tensor:
    """Every cell and channel is a feature of the photo, as in the paper."""
    return output


def _moved(images: Tensor, encoder: PictureEncoder) -> Tensor:
    return images.to(encoder.mean.device)
