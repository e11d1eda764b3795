"""Images in tar shards, of a folder or streamed from elsewhere."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vlm.core.files import cache_folder
from vlm.core.paths import as_text
from vlm.data.sampler import SHARDS_MIXED
from vlm.data.shards.cache import ShardCache
from vlm.data.shards.index import INDEX, Place, ShardIndex
from vlm.datasets.errors import DataError
from vlm.image.load import ImageError

GB = 10**9


@dataclass(frozen=True)
class Shards:
    """Shards that `vlm shard` wrote.

    Args:
        path: folder of the shards, or an address in any fsspec file system (`https://`, `s3://`,
            `hf://`) to stream them from.
        cache_gb: gigabytes of streamed shards to keep on this machine, in `shards` in the user's
            cache (`VLM_CACHE`).
    """

    path: str
    cache_gb: float = 50.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", as_text("shards.path", self.path))

    def open(self) -> ShardImages:
        """Check what is there.

        Raises:
            DataError: no index, a shard that is not there or of another size, a cache too small.
        """
        return ShardImages(self)


class ShardImages:
    """From a table's `image`, the path of an image, to the content of that file in a shard.

    Names in shards are the ends of paths ("train2014/COCO_train2014_000000000009.jpg"). What comes
    before is the same for all images, and is found with the first: the data may lie elsewhere than
    where the shards were written. Of `streamed` shards, which are fetched, reading is cheap in
    their order only.
    """

    def __init__(self, shards: Shards) -> None:
        self.shards, self.streamed = shards, "://" in shards.path
        self._root: str | None = None
        self._cache: ShardCache | None = None
        if self.streamed:
            limit = int(shards.cache_gb * GB)
            self._cache = ShardCache(shards.path, cache_folder() / "shards", limit)
            self.index = self._cache.index
            self._check_limit(limit)
        else:
            self.index = ShardIndex(Path(shards.path) / INDEX)
            self._check_files()

    def __call__(self, image: str) -> bytes:
        """The content of an image's file.

        Raises:
            ImageError: it is in no shard, or its shard cannot be read, is cut short or another.
        """
        place = self._find(image)
        shard = self.index.shards[place.shard]
        path = Path(self.shards.path) / shard.name
        for _ in range(2):
            if self._cache is not None:
                path = self._cache.path(shard)
            try:
                # Opened anew each time: loader workers that share a handle share its position.
                with path.open("rb") as file:
                    file.seek(place.offset)
                    content = file.read(place.size)
                break
            except FileNotFoundError:  # the cache made room with it just now
                continue
            except OSError as error:
                raise ImageError(f"{path}: cannot be read ({error.strerror}).") from error
        else:
            raise ImageError(f"{path}: there is no such file, but the index lists it.", "missing")
        if crc32(content) != place.crc:
            raise ImageError(
                f"{image}: damaged in {path}: expected {place.size:,} bytes at byte "
                f"{place.offset:,} with the checksum of the index. Copy shards and index again, "
                "from one run of `vlm shard`."
            )
        return content

    def state(self, image: str) -> str:
        """Another one for another content; nothing is read.

        Raises:
            ImageError: it is in no shard.
        """
        place = self._find(image)
        return f"{self.index.shards[place.shard].sha256} {place.offset} {place.size}"

    def check(self, images: pa.Array) -> None:
        """Check that all different images are there; none is read.

        Raises:
            DataError: with the number of those that are not, and the first.
        """
        missing = images.filter(pc.is_null(self._shards_of(images)))
        if len(missing):
            raise DataError(
                f"{self.shards.path}: {len(self.index):,} images, without {len(missing):,} of the "
                f"{len(images):,} needed, the first: {missing[0]}. `vlm shard` adds a "
                f"configuration's images to a folder."
            )

    def shards_of(self, images: pa.Array) -> np.ndarray:
        """The number of each image's shard."""
        return self._shards_of(images).to_numpy()

    def _shards_of(self, images: pa.Array) -> pa.Array:
        for image in images[:100].to_pylist():  # the first may be missing
            if self._root is None:
                with suppress(ImageError):
                    self._find(image)
        root = self._root or ""
        inside = pc.starts_with(images, root)
        names = pc.if_else(inside, pc.utf8_slice_codeunits(images, len(root)), None)
        return self.index.shards_of(names)

    def _find(self, image: str) -> Place:
        if self._root is None:
            starts = [0, *(place + 1 for place, letter in enumerate(image) if letter == "/")]
        else:
            starts = [len(self._root)] if image.startswith(self._root) else []
        for start in starts:
            if (place := self.index.find(image[start:])) is not None:
                self._root = image[:start]
                return place
        raise ImageError(
            f"{image}: not among the {len(self.index):,} images of {self.shards.path}. "
            f"`vlm shard` adds a configuration's images to a folder.",
            "missing",
        )

    def _check_files(self) -> None:
        for shard in self.index.shards:
            path = Path(self.shards.path) / shard.name
            size = path.stat().st_size if path.is_file() else None
            if size != shard.size:
                got = "there is no such file" if size is None else f"got {size:,} bytes"
                raise DataError(
                    f"{path}: {got}; the index expects {shard.size:,} bytes. Copy the folder "
                    f"again, or delete this shard and run `vlm shard` again."
                )

    def _check_limit(self, limit: int) -> None:
        sizes = [shard.size for shard in self.index.shards]
        # Those that an epoch is among, the next, and one that another process still reads.
        least = min(sum(sizes), (SHARDS_MIXED + 2) * max(sizes))
        if limit < least:
            raise DataError(
                f"data.images.shards.cache_gb: got {self.shards.cache_gb}; expected "
                f"{least / GB:.3g} or more: images of {SHARDS_MIXED} shards are mixed, the "
                f"largest of {max(sizes) / GB:.3g} GB. Or write smaller shards."
            )
