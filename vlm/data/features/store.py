"""Features that were made before, in the place of images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlm.data.features.segments import Segment
from vlm.core.features import Features
from vlm.image.base import grid_boxes


class FeatureStore:
    """Paths in, features out; what `ImageStore` is to images.

    The features are in memory-mapped files: memory holds what is in use, once for all processes.
    What a process keeps beside is 16 bytes an image.

    Args:
        images: different paths.
        places: (len(images), 2) int32: segment and row of each.
        segments: files (`vlm.data.features.segments`).
        grid: (rows, columns) of the tokens.
    """

    def __init__(
        self,
        images: Sequence[str],
        places: np.ndarray,
        segments: Sequence[Path],
        grid: tuple[int, int],
    ) -> None:
        # Arrays and no dict: what a forked loader worker looks up in a dict, it copies.
        hashes = np.array([_hash(image) for image in images], np.uint64)
        order = np.argsort(hashes)
        self._hashes, self._places = hashes[order], places[order]
        # Of 64 bits, so that among a million images two agree once in ten million data sets.
        assert len(np.unique(hashes)) == len(hashes)
        self.segments, self.grid = list(segments), grid
        self._mapped: dict[int, Segment] = {}

    def __len__(self) -> int:
        return len(self._hashes)

    def read(self, paths: Sequence[str], questions: Sequence[str]) -> Features:
        """Features (U, P, D) with boxes; float32 on the CPU.

        Args:
            paths: of the images.
            questions: about them; for an error, and there is none here.
        """
        wanted = np.array([_hash(path) for path in paths], np.uint64)
        found = np.searchsorted(self._hashes, wanted)
        assert np.array_equal(self._hashes[found], wanted)
        places = self._places[found].tolist()
        rows = [(self._segment(number).features, row) for number, row in places]
        return Features(
            torch.stack([features.tokens[row] for features, row in rows]),
            torch.stack([features.mask[row] for features, row in rows]),
            torch.stack([features.pooled[row] for features, row in rows]),
            grid_boxes(*self.grid).expand(len(paths), -1, -1),
        )

    def _segment(self, number: int) -> Segment:
        if number not in self._mapped:
            self._mapped[number] = Segment(self.segments[number])
        return self._mapped[number]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_mapped": {}}  # a loader worker maps the files itself


def _hash(path: str) -> int:
    return int.from_bytes(hashlib.blake2b(path.encode(), digest_size=8).digest(), "little")
