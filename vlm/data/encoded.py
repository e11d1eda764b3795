"""A data set's pictures as features of a frozen encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlm.data.feature_cache import FeatureCache
from vlm.data.feature_store import FeatureStore
from vlm.data.problems import DataError
from vlm.image.base import ImageEncoder, PictureEncoder

if TYPE_CHECKING:
    from vlm.data.datamodule import Split, VQADataModule


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
    if data.pictures.features is None or not isinstance(encoder, PictureEncoder):
        raise DataError(
            f"data.pictures.features: got {data.pictures.features} for "
            f"{type(encoder).__name__}; wanted a folder, and an encoder of pictures."
        )
    images = data.table(split)["image"].unique().to_pylist()
    cache = FeatureCache(data.pictures.features, encoder, data.alive)
    return cache.store(images, data.open_pictures, split, data.images_per_batch)
