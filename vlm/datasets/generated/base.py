"""Base of the generated data sets: made once into a folder, and known by digests."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from vlm.core.files import cache_folder, locked, write_whole
from vlm.core.paths import as_path
from vlm.datasets.arrow import map_arrow, write_arrow
from vlm.datasets.base import Dataset, Split
from vlm.datasets.table import SCHEMA, DataError, question_table, with_column
from vlm.datasets.vocabulary import VocabularyRules

PICTURES = "pictures"
"""What the digest of pixels and objects goes by, beside those of the kinds of question."""


class Picture(NamedTuple):
    """A picture and what is asked about it.

    Attributes:
        pixels: (H, W, 3) uint8.
        rows: question, answer, answer_type and question_type of each question, and its choices;
            relation and pair, with the other question as its place in this list.
        objects: features (N, D) and boxes (N, 4) of the objects, the boxes x0, y0, x1, y1 in
            pixels; None if nothing is kept.
    """

    pixels: np.ndarray
    rows: list[dict[str, Any]]
    objects: tuple[list[list[float]], list[tuple[int, int, int, int]]] | None = None


class GeneratedDataset(Dataset):
    """Base of the data sets that are generated: a subclass yields the pictures of a split.

    A split is made when it is first read, into `root`: `SPLIT/*.png`, the questions, and with some
    sets `*.npz`, each object's features and box, which `data.images.regions` reads. Its content is
    compared with the published digests (`digests.json`), one for the pictures and one for each
    `answer_type`; later reads compare the files with what was written, and a damaged folder is made
    again.

    Args:
        root: folder for the generated files; None for a folder in the cache (`VLM_CACHE`).
        validation_share: share of the training images held out if the set has no validation split.
        vocabulary: rules for the words and answers that enter the vocabularies.
        seed: seed of images, questions and held-out images; digests are published for 0.
    """

    def __init__(
        self,
        root: Path | None = None,
        validation_share: float = 0.1,
        vocabulary: VocabularyRules = VocabularyRules(),
        seed: int = 0,
    ) -> None:
        super().__init__(validation_share, vocabulary, seed)
        ignored = ("root", "abilities", "validation_share", "vocabulary", *self.variations)
        content = [str(v) for name, v in self.arguments.items() if name not in ignored]
        name = type(self).__name__ + (f"{self.revision}" if self.revision > 1 else "")
        varied = [
            f"{name}={self.arguments[name]}"
            for name, plain in self.variations.items()
            if self.arguments[name] != plain
        ]
        self.plain_edition = "-".join([name, *content])
        self.edition = "-".join([self.plain_edition, *varied])
        folder = cache_folder() / "generated" / self.edition
        self.root = folder if root is None else as_path("root", root)

    revision: ClassVar = 1
    """Higher when the same arguments make other content, so that nothing kept is taken for it."""
    variations: ClassVar[Mapping[str, Any]] = {}
    """Arguments that vary what the others make, each with the value that changes nothing: that
    edition is named as if there were no such argument, and so are random streams (`plain_edition`),
    so that all variations have the same objects and questions."""

    @abstractmethod
    def pictures(self, split: Split) -> Iterator[Picture] | None:
        """The pictures of a split; None where the set has no such."""

    def read(self, split: Split) -> pa.Table | None:
        """Questions of a split, generated if they are not there yet.

        Raises:
            DataError: the folder holds another data set, or what was generated is not what was
                published.
        """
        pictures = self.pictures(split)
        if pictures is None:
            return None
        if (kept := self._kept(split)) is None:
            with locked(self.root / f"{split}.lock", lambda: None):
                # Another process may have made it while this one waited.
                kept = self._kept(split) or self._make(split, pictures)
        folder = str(self.root / split)
        return with_column(
            kept, "image", pc.binary_join_element_wise(folder, kept["image"].cast("string"), "/")
        )

    def _kept(self, split: Split) -> pa.Table | None:
        """The questions, with the images' names; None unless every file is as it was written."""
        folder = self.root / split
        try:
            made = json.loads((folder / "made.json").read_bytes())
            if made["edition"] != self.edition:
                raise DataError(
                    f"{folder}: holds {made['edition']}; expected {self.edition}. Give each "
                    "variant of a data set a root of its own."
                )
            table = map_arrow(folder / "questions.arrow")
            whole = table.schema.names == SCHEMA.names
            return table if whole and made["files"] == _files_digest(folder, table) else None
        except DataError:
            raise
        except (OSError, pa.ArrowException, ValueError, TypeError, KeyError):
            return None

    def _make(self, split: Split, pictures: Iterator[Picture]) -> pa.Table:
        folder = self.root / split
        folder.mkdir(parents=True, exist_ok=True)
        digests: dict[str, Any] = {PICTURES: hashlib.sha256()}

        def rows() -> Iterator[dict[str, Any]]:
            for number, picture in zip(count(), pictures):
                name = f"{split}-{number:05d}"
                Image.fromarray(picture.pixels).save(folder / f"{name}.png")
                digests[PICTURES].update(picture.pixels.tobytes())
                if picture.objects is not None:
                    x, bbox = (np.array(array, "<f4") for array in picture.objects)
                    height, width = picture.pixels.shape[:2]
                    objects = folder / f"{name}.npz"
                    np.savez(objects, x=x, bbox=bbox, image_w=width, image_h=height)
                    digests[PICTURES].update(x.tobytes() + bbox.tobytes())
                for place, row in enumerate(picture.rows):
                    digest = digests.setdefault(row["answer_type"], hashlib.sha256())
                    digest.update(f"{number}\t{row['question']}\t{row['answer']}\n".encode())
                    row |= {"answers": [row.pop("answer")]}
                    if "pair" in row:
                        row["pair"] = f"{name}-{row['pair']}"
                    yield {"id": f"{name}-{place}", "image": f"{name}.png"} | row

        table = question_table(rows(), f"{self.edition} ({split})")
        self._check_digests(split, {name: d.hexdigest()[:16] for name, d in digests.items()})
        write_arrow(str(folder / "questions.arrow"), table.to_batches(), table.schema)
        made = {"edition": self.edition, "files": _files_digest(folder, table)}
        write_whole(folder / "made.json", json.dumps(made).encode())
        return table

    def _check_digests(self, split: Split, found: dict[str, str]) -> None:
        known = json.loads(Path(__file__).with_name("digests.json").read_bytes())
        published = known.get(f"{self.edition} {split}", found)
        if wrong := [name for name in published if found.get(name) != published[name]]:
            raise DataError(
                f"{self.edition} ({split}): what was generated differs from what was published in "
                f"{', '.join(wrong)}: got {found}; expected {published}. Scores on it could not be "
                f"compared. numpy {version('numpy')} and Pillow {version('pillow')} are installed; "
                "install the versions in locks/train.lock."
            )


def _files_digest(folder: Path, table: pa.Table) -> str:
    """SHA-256 of the content of all files."""
    digest = hashlib.sha256((folder / "questions.arrow").read_bytes())
    for image in table["image"].unique().to_pylist():
        digest.update((folder / image).read_bytes())
        if (objects := (folder / image).with_suffix(".npz")).is_file():
            digest.update(objects.read_bytes())
    return digest.hexdigest()
