"""Features of regions in the place of images: found by the image's path, checked, batched."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

from vlm.core.features import Features
from vlm.core.terminal import new_progress
from vlm.data.images.memory import ALONE, LocalProcesses, check_kept
from vlm.data.images.region_table import RegionTable
from vlm.datasets.errors import DataError
from vlm.image.detections import Regions, read_npz
from vlm.image.load import ImageError
from vlm.image.regions import RegionTransform

SAMPLE = 100
"""Images from whose regions the memory of all is estimated."""


class RegionFiles:
    """From a table's `image`, the path of an image, to its regions.

    An image "photos/train2014/COCO_train2014_000000000009.jpg" goes by the names
    "COCO_train2014_000000000009.jpg", the same without ".jpg", and "9". In a folder its file is
    one of these with ".npz", in "photos/train2014/", in "train2014/" or in the folder itself,
    whichever is there first; in a TSV its id is one of these. The image need not exist.

    Args:
        paths: a folder of .npz files (`vlm.image.detections.read_npz`) or a TSV
            (`vlm.data.images.region_table.RegionTable`), or several, of which the first that has an
            image gives it.

    Raises:
        DataError: there is no such folder or file, or a TSV that cannot be used.
    """

    def __init__(self, paths: str | Path | Sequence[str | Path]) -> None:
        several = [paths] if isinstance(paths, (str, Path)) else list(paths)
        if not several:
            raise DataError("regions: got an empty list; expected a folder of .npz files or a TSV.")
        self.sources = [_source(Path(path)) for path in several]
        self._owners: dict[int, int] = {}

    def __call__(self, image: str) -> Regions:
        """Read the regions of an image.

        Raises:
            ImageError: none are there, or they are damaged: file, line, image and reason.
        """
        number, place = self._find(image)
        return self.sources[number].read(place)  # type: ignore[arg-type]  # its own place

    def check(self, images: Iterable[str]) -> None:
        """Check that all images have regions, each its own; nothing is read.

        Raises:
            DataError: with the number of those without, and the first; or two images that
                share one file.
        """
        missing: list[str] = []
        images = list(images)
        for image in images:
            try:
                found = self._find(image)
            except ImageError as error:
                missing.append(str(error))
                continue
            if self._owners.setdefault(hash(found), hash(image)) != hash(image):
                raise DataError(
                    f"{image}: its features are also those of another image "
                    f"({self.sources[found[0]].path}, {found[1]}). Give images different names, "
                    "or put features in folders named like the images'."
                )
        if missing:
            raise DataError(
                f"no features for {len(missing):,} of {len(images):,} images. First: {missing[0]}"
            )

    def _find(self, image: str) -> tuple[int, int | str]:
        names = _names(image)
        for number, source in enumerate(self.sources):
            possible = _paths(image, names) if isinstance(source, _Folder) else names
            if (place := source.find(possible)) is not None:
                return number, place
        where = ", ".join(str(source.path) for source in self.sources)
        raise ImageError(
            f"{image}: no features in {where}; expected a file {names[-1]}.npz in a folder, "
            f"or a line with the id {names[-1]} in a TSV.",
            "missing",
        )


class _Folder:
    """Of .npz files, one an image."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def find(self, names: list[str]) -> str | None:
        return next((name for name in names if (self.path / name).is_file()), None)

    def read(self, place: str) -> Regions:
        return read_npz(self.path / place)


def _source(path: Path) -> _Folder | RegionTable:
    if path.is_dir():
        return _Folder(path)
    if not path.is_file():
        raise DataError(f"regions: {path}: there is no such folder or file.")
    if path.suffix == ".npz":
        raise DataError(f"regions: {path}: one image's file; expected the folder that contains it.")
    return RegionTable(path)


def _names(image: str) -> list[str]:
    path = PurePath(image)
    names = [path.name, path.stem]
    # COCO's images are named by split and number, and its features by the number alone.
    if number := re.search(r"(?:^|_)0*(\d+)$", path.stem):
        names.append(number[1])
    return list(dict.fromkeys(names))


def _paths(image: str, names: list[str]) -> list[str]:
    folders = [part for part in PurePath(image).parent.parts if part not in ("/", "..")][-2:]
    places = ["/".join(folders[start:]) for start in range(len(folders) + 1)]
    return [str(PurePath(place, f"{name}.npz")) for place in places for name in names]


class RegionStore:
    """Paths of images in, their regions out; what `ImageStore` is to images."""

    def __init__(self, transform: RegionTransform, files: RegionFiles) -> None:
        self.transform, self.files = transform, files
        self._kept: dict[str, Features] = {}

    def cache(
        self,
        paths: Iterable[str],
        questions: Iterable[str],
        name: str,
        processes: LocalProcesses = ALONE,
    ) -> None:
        """Read the regions of all images now and keep them in memory, four bytes a number.

        Raises:
            DataError: more than there is memory.
        """
        first = dict(zip(paths, questions, strict=True))
        self._kept = {}
        with new_progress() as progress:
            shown = progress.track(first.items(), description=f"Reading {name} regions")
            for path, question in shown:
                self._kept[path] = self._read(path, question)
                if len(self._kept) == min(SAMPLE, len(first)):
                    read = sum(regions.tokens.nbytes for regions in self._kept.values())
                    check_kept(len(first), read / len(self._kept), name, processes)

    def read(self, paths: Sequence[str], questions: Sequence[str]) -> Features:
        """Regions (U, N, D), padded to the image that has the most.

        Raises:
            ImageError: naming file, line, image, the reason and the question.
        """
        pairs = zip(paths, questions, strict=True)
        return self.transform.stack([self._kept.get(p) or self._read(p, q) for p, q in pairs])

    def _read(self, path: str, question: str) -> Features:
        try:
            return self.transform(self.files(path))
        except ImageError as error:
            raise ImageError(f"Question {question!r}: {error}", error.kind) from error
