"""Which of a data set's images cannot be read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
from rich.progress import Progress

from vlm.data.images.sources import OpenImages
from vlm.datasets.table import stream
from vlm.image.load import ImageError

READ_AT_ONCE = 256
"""Images handed to the readers at a time."""


def unreadable(
    files: OpenImages, table: pa.Table, rows: np.ndarray, name: str
) -> Iterator[tuple[dict[str, Any], ImageError]]:
    """Read images, and give the `image`, `place` and `id` of each broken one's question, and why.

    Args:
        files: where they are.
        table: questions (`vlm.datasets.table.SCHEMA`).
        rows: those whose images are read.
        name: of the split, for the progress bar.
    """

    def read(image: str) -> ImageError | None:
        try:
            files.read(image)
        except ImageError as error:
            return error
        return None

    chosen = np.zeros(len(table), bool)
    chosen[rows] = True
    content = zip(stream(table, "image", "place", "id"), chosen, strict=True)
    wanted = (row for row, take in content if take)
    with Progress(transient=True) as progress, ThreadPoolExecutor(os.cpu_count()) as readers:
        task = progress.add_task(f"Reading {name} images", total=len(rows))
        while chunk := list(islice(wanted, READ_AT_ONCE)):
            errors = readers.map(read, (image for image, _, _ in chunk))
            for (image, place, number), error in zip(chunk, errors, strict=True):
                if error is not None:
                    yield {"image": image, "place": place, "id": number}, error
            progress.advance(task, len(chunk))
