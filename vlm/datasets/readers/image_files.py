"""Images that come as bytes inside a data file: each kept once, in a temporary file."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import weakref
from array import array
from pathlib import Path
from typing import Any

from vlm.datasets.errors import DataError
from vlm.datasets.sources import note_fleeting


class EmbeddedImages:
    """Content in, key out; key in, content out. Memory does not grow with the images' size.

    Equal content has one key, so that an image that a table repeats in every row is one
    to splits and batches. The temporary file lies in the system's folder for these (`TMPDIR`) and
    goes with the process. Copies in loader workers read the same file.
    """

    def __init__(self) -> None:
        self._ends = array("q", [0])
        self._keys: dict[bytes, str] = {}
        self._sources: set[str] = set()
        self._path: Path | None = None

    def add(self, content: bytes, source: str) -> str:
        """Keep the content of an image file of a data file.

        Returns:
            Its key, such as "vqa.parquet, image 17": the 17th different one. An image that
            another source brought before keeps its first key.

        Raises:
            DataError: the temporary file cannot be written.
        """
        note_fleeting()  # a kept table would name images that are gone
        digest = hashlib.blake2b(content, digest_size=16).digest()
        if digest not in self._keys:
            try:
                with self._file().open("ab") as file:
                    file.write(content)
            except OSError as error:
                raise DataError(
                    f"{source}: its images could not be copied to {self._path} "
                    f"({error.strerror}); set TMPDIR to a folder with space for them."
                ) from None
            self._ends.append(self._ends[-1] + len(content))
            self._sources.add(source)
            self._keys[digest] = f"{source}, image {len(self._ends) - 1}"
        return self._keys[digest]

    def __contains__(self, image: str) -> bool:
        """Whether it is a key, and no path."""
        return image.rpartition(", image ")[0] in self._sources

    def __call__(self, image: str) -> bytes | str:
        """The content of a key; what is no key is a path, and comes back as it is."""
        if self._path is None or image not in self:
            return image
        number = image.rpartition(", image ")[2]
        start, end = self._ends[int(number) - 1], self._ends[int(number)]
        with self._path.open("rb") as file:
            file.seek(start)
            return file.read(end - start)

    def __getstate__(self) -> dict[str, Any]:
        # Loader workers read and add nothing: they need no digest of every image.
        return self.__dict__ | {"_keys": {}}

    def _file(self) -> Path:
        if self._path is None:
            folder = tempfile.mkdtemp(prefix="vlm-images-")
            weakref.finalize(self, _remove, folder, os.getpid())
            self._path = Path(folder) / "images"
        return self._path


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # not in a forked loader worker
        shutil.rmtree(folder, ignore_errors=True)
