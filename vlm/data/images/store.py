"""Images of a data set, decoded once or on the way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from vlm.core.features import Seen
from vlm.core.terminal import track
from vlm.data.images.memory import ALONE, LocalProcesses, check_kept
from vlm.datasets.base import ImageSource
from vlm.image.load import ImageError, WhiteLevel, load_image
from vlm.image.transform import ImageTransform


class Images(Protocol):
    """Paths in, images of a batch out."""

    def read(self, paths: Sequence[str], questions: Sequence[str]) -> Seen:
        """The images at different paths; `questions` are ids of one about each, for an error."""


class ImageStore:
    """Paths in, transformed images out; `source` says where the images are, if `image` is no
    path, and `fast_jpeg` whether their JPEGs are decoded at a fraction of their size."""

    def __init__(
        self, transform: ImageTransform, source: ImageSource | None = None, fast_jpeg: bool = False
    ) -> None:
        self.transform, self.source = transform, source
        self.enough = transform.enough if fast_jpeg else None
        self._rows: dict[str, int] = {}
        self._cache = torch.empty(0, *transform.shape, dtype=torch.uint8)

    def cache(
        self,
        paths: Iterable[str],
        questions: Iterable[str],
        name: str,
        processes: LocalProcesses = ALONE,
    ) -> None:
        """Decode the images of a split now, each once, and keep them in memory, a byte for each
        pixel and channel. `questions` are the id of one about each, for the error.

        Raises:
            DataError: more than there is memory.
        """
        first = dict(zip(paths, questions, strict=True))
        check_kept(len(first), prod(self.transform.shape), name, processes)
        self._cache = torch.empty(len(first), *self.transform.shape, dtype=torch.uint8)
        shown = f"Decoding {name} images"
        for row, (path, question) in enumerate(track(first.items(), shown)):
            self._cache[row] = self._read(path, question)
            self._rows[path] = row

    def read(self, paths: Sequence[str], questions: Sequence[str]) -> Tensor:
        """Images (U, *transform.shape) uint8.

        Raises:
            ImageError: naming the file, the reason and the question.
        """
        if self._rows:
            rows = [self._rows[path] for path in paths]
            # `index_select` copies whole images, indexing byte after byte.
            return self._cache.index_select(0, torch.tensor(rows, dtype=torch.long))
        pairs = zip(paths, questions, strict=True)
        return self.transform.stack([self._read(path, question) for path, question in pairs])

    def _read(self, path: str, question: str) -> Tensor:
        try:
            level = self.transform.white_level
            return self.transform(open_image(path, self.source, level, self.enough))
        except ImageError as error:
            raise ImageError(f"Question {question!r}: {error}", error.kind) from error


def open_image(
    image: str,
    source: ImageSource | None,
    white_level: WhiteLevel = None,
    enough: tuple[int, int] | None = None,
) -> Image.Image:
    """The image of a table's `image`; `white_level` and `enough` are those of `load_image`.

    Raises:
        ImageError: naming the image and the reason.
    """
    found = image if source is None else source(image)
    try:
        return load_image(found, white_level, enough)
    except ImageError as error:
        if isinstance(found, str):
            raise
        raise ImageError(f"{image}: {str(error).removeprefix('image: ')}", error.kind) from error
