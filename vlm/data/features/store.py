"""Features that were made before, in the place of images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from vlm.core.features import Features


class FeatureStore:
    """Paths in, features out; what `ImageStore` is to images.

    The features are in memory-mapped files: memory holds what is in use, once for all processes.
    What a process keeps beside is 16 bytes an image. `places` are file and row of the features of
    each of the images (`vlm.data.features.cache`).
    """

    def __init__(self, images: Sequence[str], places: Sequence[tuple[Path, int]]) -> None:
        self.files = sorted({path for path, _ in places})
        numbers = {path: number for number, path in enumerate(self.files)}
        # Arrays and no dict: what a forked loader worker looks up in a dict, it copies.
        rows = np.array([(numbers[path], row) for path, row in places], np.int32).reshape(-1, 2)
        hashes = np.array([_hash(image) for image in images], np.uint64)
        order = np.argsort(hashes)
        self._hashes, self._rows = hashes[order], rows[order]
        # Of 64 bits, so that among a million images two agree once in ten million data sets.
        assert len(np.unique(hashes)) == len(hashes)
        self._mapped: dict[int, dict[str, Tensor]] = {}

    def __len__(self) -> int:
        return len(self._hashes)

    def read(self, paths: Sequence[str], questions: Sequence[str]) -> Features:
        """Features (U, P, D) with boxes; float32 on the CPU. The questions are not read."""
        hashes = np.array([_hash(path) for path in paths], np.uint64)
        found = np.searchsorted(self._hashes, hashes)
        assert np.array_equal(self._hashes[found], hashes)
        rows = [(self._content(number), row) for number, row in self._rows[found].tolist()]
        parts = Features._fields
        return Features(*(torch.stack([file[p][row] for file, row in rows]) for p in parts))

    def _content(self, number: int) -> dict[str, Tensor]:
        if number not in self._mapped:
            self._mapped[number] = load_file(self.files[number])
        return self._mapped[number]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_mapped": {}}  # a loader worker maps the files itself


def _hash(path: str) -> int:
    return int.from_bytes(hashlib.blake2b(path.encode(), digest_size=8).digest(), "little")
