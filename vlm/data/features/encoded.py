"""A data set's pictures as features of a frozen encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vlm.data.features.cache import FeatureCache, encode
from vlm.data.features.store import FeatureStore
from vlm.datasets.errors import DataError
from vlm.core.features import Features
from vlm.image.base import ImageEncoder, PictureEncoder, grid_boxes

if TYPE_CHECKING:
    from vlm.data.datamodule import Split, VQADataModule


class BlankFeatures:
    """What a frozen encoder makes of a picture that shows nothing, in the place of every picture.

    Args:
        encoder: frozen.
    """

    def __init__(self, encoder: PictureEncoder) -> None:
        blank = encode(encoder, encoder.transform.blank(1))
        self.features = blank._replace(boxes=grid_boxes(*encoder.grid)[None])

    def read(self, paths: Sequence[str], questions: Sequence[str]) -> Features:
        return self.features.take(torch.zeros(len(paths), dtype=torch.long))


def encoded_pictures(data: VQADataModule, split: Split, encoder: ImageEncoder) -> FeatureStore:
    """The features of a split's pictures (`pictures.features`), made where they are missing.

    Args:
        data: the data set.
        split: whose pictures.
        encoder: frozen.

    Raises:
        DataError: no folder for them, an encoder of regions, or no space.
        ImageError: a picture that cannot be read.
    """
    folder, encoder = _cached(data, encoder)
    images = data.table(split)["image"].unique().to_pylist()
    cache = FeatureCache(folder, encoder, data.alive)
    return cache.store(images, data.open_pictures, split, data.images_per_batch)


def seen_features(
    data: VQADataModule, split: Split, encoder: ImageEncoder
) -> FeatureStore | BlankFeatures:
    """What a model is to see of a split's pictures, after `data.control`.

    Args, Raises: as `encoded_pictures`.
    """
    if data.control == "question_only":
        return BlankFeatures(_cached(data, encoder)[1])
    return encoded_pictures(data, split, encoder)


def _cached(data: VQADataModule, encoder: ImageEncoder) -> tuple[Path, PictureEncoder]:
    folder = data.pictures.features
    if folder is None or not isinstance(encoder, PictureEncoder):
        raise DataError(
            f"data.pictures.features: got {folder} for {type(encoder).__name__}; wanted a folder, "
            f"and an encoder of pictures."
        )
    return Path(folder), encoder
