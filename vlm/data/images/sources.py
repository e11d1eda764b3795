"""Where the images of a data set come from, and what is kept of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import NoneType

import pyarrow as pa

from vlm.core.paths import as_text
from vlm.core.validation import check_positive
from vlm.data.images.memory import LocalProcesses
from vlm.data.images.regions import RegionFiles, RegionStore
from vlm.data.images.store import ImageStore, open_image
from vlm.data.shards.source import ShardImages, Shards
from vlm.datasets.base import ImageSource
from vlm.datasets.errors import DataError
from vlm.datasets.several import different_images, images_of
from vlm.datasets.sources import state
from vlm.datasets.table import stream
from vlm.image.load import ImageError, load_image
from vlm.image.regions import RegionTransform
from vlm.image.rgb import WhiteLevel
from vlm.image.transform import ImageTransform


@dataclass(frozen=True)
class ImageOptions:
    """Options of every data set.

    Args:
        in_memory: whether to decode every image once at the start and keep it in memory.
        fast_jpeg: whether to decode a JPEG at a half, a quarter or an eighth of its size, whichever
            is the smallest that is no smaller than the encoder's input. This changes pixels by 1.5
            of 255 on average and saves time (docs/benchmarks/images.md). Images of later questions
            (`vlm ask`) are decoded in full.
        regions: region features to use instead of images, for `vlm.image.RegionFeatures`: a folder
            of .npz files or a bottom-up-attention TSV, or several (`vlm.data.images.regions`).
        shards: tar shards (`vlm shard`), in a folder or streamed, if the images are not in their
            own files (`vlm.data.shards.source`).
        features: folder that caches a frozen image encoder's features (`vlm.data.features.cache`).
            Each image is encoded once, when it is first needed; later epochs and runs read its
            features from the folder. Features are memory-mapped; `in_memory` applies only to images
            that the model still sees.
        features_batch: number of images that are encoded together for `features`.
        skip_unreadable: largest number of unreadable images to leave out of training, and of
            validation, with their questions; all images are read at the start to find them. With 0,
            the first unreadable image is an error, as always in test and predict, which answer
            every question.
    """

    in_memory: bool = False
    fast_jpeg: bool = False
    regions: str | list[str] | None = None
    shards: Shards | None = None
    features: str | None = None
    features_batch: int = 32
    skip_unreadable: int = 0

    def __post_init__(self) -> None:
        regions = self.regions if isinstance(self.regions, list) else [self.regions]
        for name, path in (*(("regions", path) for path in regions), ("features", self.features)):
            if path is not None:
                as_text(f"images.{name}", path)
        if not isinstance(self.shards, (Shards, NoneType)):
            raise TypeError(
                f"images.shards: got {self.shards!r:.80}; expected "
                f"vlm.data.shards.source.Shards(path)."
            )
        check_positive(**{"images.features_batch": self.features_batch})
        if not isinstance(self.skip_unreadable, int) or self.skip_unreadable < 0:
            raise ValueError(
                f"images.skip_unreadable: got {self.skip_unreadable}; expected 0 or more images."
            )
        if self.regions is not None and self.shards is not None:
            raise ValueError(
                "images.regions and images.shards: got both; expected one, for a model reads "
                "images or regions."
            )
        if self.fast_jpeg and (self.regions is not None or self.features is not None):
            raise ValueError(
                "images.fast_jpeg: got true with images.regions or images.features; expected one "
                "or the other, since those come from fully decoded images."
            )
        if self.regions is not None and self.features is not None:
            raise ValueError(
                "images.regions and images.features: got both; expected one, for regions are "
                "features already."
            )


class OpenImages:
    """The files that the options name, opened: regions, shards, or what `source` makes of a table's
    `image` that is no path.

    Raises:
        DataError: files that are not there or cannot be used.
    """

    def __init__(self, options: ImageOptions, source: ImageSource | None) -> None:
        self.options = options
        self.regions = None if options.regions is None else RegionFiles(options.regions)
        self.shards: ShardImages | None = None
        if options.shards is not None:
            self.shards = options.shards.open()
        self.source = self.shards or source

    def store(self, transform: ImageTransform | RegionTransform) -> ImageStore | RegionStore:
        """Where a model gets its images, or their regions.

        Raises:
            DataError: the model reads the one and the data give the other.
        """
        if isinstance(transform, RegionTransform):
            if self.regions is None:
                raise DataError(
                    "The image encoder reads region features, but data.images.regions names none; "
                    "expected a folder of .npz files or a bottom-up-attention TSV."
                )
            return RegionStore(transform, self.regions)
        if self.regions is not None:
            raise DataError(
                f"data.images.regions: got {self.options.regions}, but the image encoder reads "
                "images. Use --model.image_encoder=configs/image/regions.yaml, or leave "
                f"data.images.regions out."
            )
        return ImageStore(transform, self.source, self.options.fast_jpeg)

    def check(self, images: pa.Array) -> None:
        """Check that shards or regions of all different images are there; none is read.

        Raises:
            DataError: with the number of those that are not, and the first.
        """
        if self.regions is not None:
            self.regions.check(images.to_pylist())
        elif self.shards is not None:
            self.shards.check(images)

    def filled(
        self,
        transform: ImageTransform | RegionTransform,
        table: pa.Table,
        split: str,
        processes: LocalProcesses,
        seen: bool = True,
    ) -> ImageStore | RegionStore:
        """`store` of a split's images, which are all there, and in memory if the options say so and
        they are `seen`, which they are not where all features are kept.

        Raises:
            DataError: as `store` and `check`; images that memory cannot hold.
            ImageError: one that is kept in memory cannot be read.
        """
        store = self.store(transform)
        self.check(different_images(table["image"]))
        if self.options.in_memory and seen:
            pairs = [
                (image, number)
                for images, number in stream(table, "image", "id")
                for image in images_of(images)
            ]
            paths, questions = [image for image, _ in pairs], [number for _, number in pairs]
            store.cache(paths, questions, split, processes)
        return store

    def content(self, image: str) -> bytes:
        """The content of an image's file.

        Raises:
            ImageError: it cannot be read.
        """
        found = image if self.source is None else self.source(image)
        if isinstance(found, bytes):
            return found
        try:
            return Path(found).read_bytes()
        except OSError as error:
            load_image(found)  # says what is wrong with a path
            raise ImageError(f"{found}: {error.strerror}.") from error

    def state(self, image: str) -> str | None:
        """What changes with an image's content and is known without reading it; None if nothing
        is: the image is inside a data file."""
        if self.shards is not None:
            return self.shards.state(image)
        found = image if self.source is None else self.source(image)
        return None if isinstance(found, bytes) else repr(state(found)[1:])

    def read(self, image: str, white_level: WhiteLevel = None) -> None:
        """Read an image, or its regions, to see whether it can be read; `white_level` is that of
        `load_image`.

        Raises:
            ImageError: it cannot.
        """
        if self.regions is None:
            open_image(image, self.source, white_level)
        else:
            self.regions(image)
