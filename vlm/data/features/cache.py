"""A frozen image encoder's features, made once for each image and kept."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from vlm.core.features import Features
from vlm.core.files import PART, locked, sha256, write_whole
from vlm.core.host import HostCopy
from vlm.core.terminal import new_progress
from vlm.core.validation import counted
from vlm.data.features.digests import Digests
from vlm.data.features.frozen import describe, encode, encoder_digest
from vlm.data.features.store import FeatureStore
from vlm.data.images.sources import OpenImages
from vlm.data.images.store import open_image
from vlm.datasets.errors import DataError
from vlm.datasets.sources import state
from vlm.image.base import PixelEncoder
from vlm.image.load import ImageError

SUFFIX = ".safetensors"
SEGMENT_BYTES = 64 * 2**20
"""Of a file's features, about; so much is lost when the filling is interrupted."""
ABOUT = "encoder.json"


class FeatureCache:
    """The features of one image encoder, of any data set's images.

    In the folder each encoder has one of its own, named by the digest of its weights, its
    configuration and its preprocessing (`encoder_digest`), and in that each image is known by the
    SHA-256 of its content. So features of other weights, or of an image that was replaced, are
    never used. Processes and runs may share the folder: one fills, the others wait. The encoder
    must not be trained as long as the features are used; `alive` is called now and then in what
    takes long.
    """

    def __init__(
        self,
        folder: str | Path,
        encoder: PixelEncoder,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        self.encoder, self.alive = encoder, alive
        self.root = Path(folder)
        self.folder = self.root / encoder_digest(encoder)[:32]
        self.digests = Digests(self.root / "digests.arrow")

    def store(
        self, images: Sequence[str], files: OpenImages, name: str, at_once: int
    ) -> FeatureStore:
        """The features of different images; those that are not there yet are made now.

        Raises:
            ImageError: an image that cannot be read.
            DataError: the features could not be written.
        """
        try:
            digests = self._digests(images, files, name)
            places = self._places()
            if not places.keys() >= set(digests):
                with locked(self.folder / "lock", self.alive):
                    self._fill(dict(zip(digests, images, strict=True)), files, name, at_once)
                places = self._places()
        except OSError as error:
            raise DataError(
                f"data.images.features: {self.folder} could not be written ({error}). Finished "
                "files stay; the next start continues from there."
            ) from None
        return FeatureStore(images, [places[digest] for digest in digests])

    def _digests(self, images: Sequence[str], files: OpenImages, name: str) -> list[bytes]:
        def compute(image: str) -> bytes:
            return hashlib.sha256(files.content(image)).digest()

        with new_progress() as bar:
            task = bar.add_task(f"Looking at {name} images", total=len(images))

            def progress(done: int) -> None:
                self.alive()
                bar.update(task, completed=done)

            states = {image: files.state(image) for image in images}
            return self.digests.of(states, compute, progress)

    def _places(self, remove_broken: bool = False) -> dict[bytes, tuple[Path, int]]:
        """File and row of the features of each image, by its digest."""
        paths = sorted(self.folder.glob(f"*{SUFFIX}"))
        states: dict[str, str | None] = {str(path): repr(state(path)[1:]) for path in paths}
        found = self.digests.of(states, lambda name: bytes.fromhex(sha256(name)))
        places = {}
        for path, digest in zip(paths, found, strict=True):
            self.alive()
            if digest.hex() == path.stem:
                content = load_file(path)["digests"].numpy().tobytes()
                for row in range(len(content) // 32):
                    places[content[32 * row : 32 * row + 32]] = (path, row)
            elif remove_broken:
                warnings.warn(
                    f"{path}: broken (its content has another checksum than its name says); it is "
                    f"made again.",
                    stacklevel=2,
                )
                path.unlink()
        return places

    def _fill(self, images: dict[bytes, str], files: OpenImages, name: str, at_once: int) -> None:
        """Encode what is missing of the images, given by their digests. Nobody else writes now."""
        for left in self.folder.glob(f"*{PART}"):
            left.unlink()
        known = self._places(remove_broken=True)
        missing = {digest: image for digest, image in images.items() if digest not in known}
        if not missing:  # another process had the lock and made them
            return
        tokens, dim = self.encoder.length, self.encoder.dim
        each = 4 * dim * (tokens + 1) + (16 + 1) * tokens + 32  # boxes and mask, the digest
        self._announce(len(missing), each * len(missing))
        write_whole(self.folder / ABOUT, json.dumps(describe(self.encoder), indent=1).encode())
        per_segment = max(1, SEGMENT_BYTES // each)
        rows: list[Features] = []
        digests: list[bytes] = []
        with new_progress() as bar, ThreadPoolExecutor() as readers:
            task = bar.add_task(f"Encoding {name} images", total=len(missing))
            for keys, encoded in self._encoded(self._read(missing, files, at_once, readers)):
                rows.append(encoded)
                digests += keys
                if len(digests) >= per_segment:
                    self._write(digests, rows)
                    rows, digests = [], []
                self.alive()
                bar.advance(task, len(keys))
            if digests:
                self._write(digests, rows)

    def _encoded(
        self, batches: Iterator[tuple[list[bytes], Tensor]]
    ) -> Iterator[tuple[list[bytes], Features]]:
        """The features of each batch, which the device encodes while the next one is read."""
        before: tuple[list[bytes], HostCopy] | None = None
        for keys, images in batches:
            if before is not None:
                yield before[0], Features(*before[1].read())
            before = keys, encode(self.encoder, images)
        if before is not None:
            yield before[0], Features(*before[1].read())

    def _write(self, digests: list[bytes], rows: list[Features]) -> None:
        """A file of some images' features, which is whole as soon as it has its name."""
        numbers = torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.uint8)
        found = zip(Features._fields, zip(*rows, strict=True), strict=True)
        parts = {name: torch.cat(values).contiguous() for name, values in found}
        content = save(parts | {"digests": numbers.view(-1, 32)})
        write_whole(self.folder / f"{hashlib.sha256(content).hexdigest()}{SUFFIX}", content)

    def _announce(self, count: int, size: int) -> None:
        others = sum(1 for about in self.root.glob(f"*/{ABOUT}") if about.parent != self.folder)
        if others and not (self.folder / ABOUT).exists():
            print(
                f"{self.root}: has features of other weights or another preprocessing "
                f"({counted(others, 'encoder')}), which are not used."
            )
        free = shutil.disk_usage(self.folder).free
        if size > free:
            raise DataError(
                f"data.images.features: the features of {counted(count, 'image')} take "
                f"{_megabytes(size)}, and {self.folder} has {_megabytes(free)} left; name a folder "
                f"with more space."
            )
        print(
            f"Encoding {counted(count, 'image')} once: {_megabytes(size)} in {self.folder} "
            f"({_megabytes(free)} free)"
        )

    def _read(
        self,
        missing: dict[bytes, str],
        files: OpenImages,
        at_once: int,
        readers: ThreadPoolExecutor,
    ) -> Iterator[tuple[list[bytes], Tensor]]:
        """Batches of images, of which one is read while another is encoded."""
        transform = self.encoder.transform

        def read(digest: bytes) -> Tensor:
            image = missing[digest]
            content = files.content(image)
            if hashlib.sha256(content).digest() != digest:
                raise ImageError(f"{image}: the file changed while it was read; run it again.")
            return transform(open_image(image, lambda image: content, transform.white_level))

        keys = list(missing)
        chunks = [keys[start : start + at_once] for start in range(0, len(keys), at_once)]
        ahead = readers.map(read, chunks[0])
        for chunk, following in zip(chunks, [*chunks[1:], []], strict=True):
            now, ahead = ahead, readers.map(read, following)
            yield chunk, transform.stack(list(now))


def _megabytes(size: int) -> str:
    return f"{size / 10**6:,.1f} MB"
