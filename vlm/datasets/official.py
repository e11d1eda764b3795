"""Bases of the data sets that lie in a folder as their authors publish them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from vlm.core.paths import as_path
from vlm.datasets.base import Dataset, Split
from vlm.datasets.readers.official import check_size
from vlm.datasets.vocabulary import VocabularyRules


class OfficialDataset(Dataset):
    """Base of the data sets in a folder: a subclass says what its splits are and how one is read.

    Args:
        root: folder of the data set.
        validation_share, vocabulary, seed: held-out share, vocabulary rules and seed, as for
            `Dataset`.
    """

    get: ClassVar[str]
    """A sentence that says where the set comes from, for the error if a file is missing."""
    parts: ClassVar[Mapping[Split, str]] = {"train": "train", "validation": "val", "test": "test"}
    """The splits that the set has, and what it calls each."""
    sizes: ClassVar[Mapping[str, int]] = {}
    """Numbers of questions by the set's own name of the split, as far as they are published."""
    cited: ClassVar[str] = ""
    """Who publishes the numbers."""

    def __init__(
        self,
        root: Path,
        validation_share: float = 0.1,
        vocabulary: VocabularyRules = VocabularyRules(),
        seed: int = 0,
    ) -> None:
        super().__init__(validation_share, vocabulary, seed)
        self.root = as_path("root", root)

    def read(self, split: Split) -> pa.Table | None:
        return self.checked_part(self.parts[split]) if split in self.parts else None

    def checked_part(self, part: str) -> pa.Table:
        """`read_part`, with a warning if the number of questions is not the published one."""
        table = self.read_part(part)
        check_size(table, self.sizes.get(part), self.cited)
        return table

    @abstractmethod
    def read_part(self, part: str) -> pa.Table:
        """Questions of a split by the set's own name (`parts`)."""


class OfficialDatasetWithImages(OfficialDataset):
    """Base of those whose images may lie in another folder than the questions.

    Args:
        root: folder with the files of questions and annotations.
        images: folder that contains the image folders; None if they are in `root`.
        validation_share, vocabulary, seed: held-out share, vocabulary rules and seed, as for
            `Dataset`.
    """

    image_folder: ClassVar[str] = ""
    """Where images lie in `root` unless `images` says otherwise."""

    def __init__(
        self,
        root: Path,
        images: Path | None = None,
        validation_share: float = 0.1,
        vocabulary: VocabularyRules = VocabularyRules(),
        seed: int = 0,
    ) -> None:
        super().__init__(root, validation_share, vocabulary, seed)
        self.images = as_path("images", images or self.root / self.image_folder)
