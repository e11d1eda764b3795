"""Questions in two splits: the same words about the same image, whatever their ids."""

from __future__ import annotations

import os
import warnings
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vlm.datasets.base import Dataset, Split
from vlm.datasets.errors import DataError
from vlm.datasets.mixture import SET, Mixture
from vlm.datasets.several import as_one, images_of
from vlm.datasets.table import source_of

REFUSES = "refuses_shared_questions"


def shared_rows(table: pa.Table, train: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """The rows (S,) of a table whose question is in `train` too, and the row there of each.

    Images are compared by path, with links in folders resolved; questions without case and outer
    space.
    """
    here, there = _files(table), _files(train)
    common = set(here.values()) & set(there.values())
    if not common:  # true of most sets; then no question needs to be compared
        return np.empty(0, np.int64), np.empty(0, np.int64)
    keys, rows = _keys(table, here, common)
    known, known_rows = _keys(train, there, common)
    first = pc.index_in(keys, value_set=known)
    found = first.is_valid().to_numpy(zero_copy_only=False)
    return rows[found], known_rows[first.drop_null().to_numpy()]


def by_set(dataset: Dataset, table: pa.Table, rows: np.ndarray, attribute: str) -> np.ndarray:
    """A bool of the data set for each of these rows, (S,); of a mixture, of each row's own set."""
    if isinstance(dataset, Mixture):
        sets = table[SET].take(rows).to_pylist()
        return np.array([getattr(dataset.datasets[name], attribute) for name in sets], bool)
    return np.full(len(rows), getattr(dataset, attribute))


def check_shared(dataset: Dataset, split: Split) -> None:
    """Check that no question of a split is also trained on, and none of test used in validation.

    Raises:
        DataError: some are trained on, and their set `refuses_shared_questions`; otherwise there
            is a warning.
    """
    if dataset.has("train"):
        _check_trained(dataset, split)
    if split == "test" and dataset.has("validation"):
        table = dataset.table("test")
        rows, _ = shared_rows(table, dataset.table("validation"))
        if len(rows):
            warnings.warn(
                f"{len(rows):,} of the {len(table):,} test questions are validation questions too, "
                f"which choose and calibrate the model: the test scores may be too high.",
                stacklevel=2,
            )


def _check_trained(dataset: Dataset, split: Split) -> None:
    table, train = dataset.table(split), dataset.table("train")
    rows, known = shared_rows(table, train)
    if not len(rows):
        return
    option, wrong = "allow_shared_questions", by_set(dataset, table, rows, REFUSES)
    if wrong.any():
        rows, known = rows[wrong], known[wrong]
        if isinstance(dataset, Mixture):
            option = f"datasets.{table[SET][int(rows[0])]}.init_args.{option}"
    one, other = (
        source["place"][int(row)].as_py() or f"{source_of(source)}, id {source['id'][int(row)]}"
        for source, row in ((table, rows[0]), (train, known[0]))
    )
    found = (
        f"Trained on too: {len(rows):,} of the {len(table):,} {split} questions, such as "
        f"{table['question'][int(rows[0])].as_py()!r:.80} at {one} and, about the same image, at "
        f"{other}; the {split} scores"
    )
    if wrong.any():
        raise DataError(
            f"{found} would not measure new questions. Use other {split} questions, or allow these "
            f"with --dataset.{option}=true."
        )
    warnings.warn(f"{found} partly measure known questions.", stacklevel=2)


def _files(table: pa.Table) -> dict[str, str]:
    """The file of each different image, or the files of a list, by its name in the table."""
    names = table["image"].unique().to_pylist()
    lists = {name: images_of(name) for name in names}
    every = chain.from_iterable(lists.values())
    folders = {folder: os.path.realpath(folder) for folder in set(map(os.path.dirname, every))}
    return {
        name: as_one(
            [
                os.path.join(folders[os.path.dirname(image)], os.path.basename(image))
                for image in images
            ]
        )
        for name, images in lists.items()
    }


def _keys(table: pa.Table, files: dict[str, str], common: set[str]) -> tuple[pa.Array, np.ndarray]:
    """A key of each question about a common image, and the rows of these questions."""
    names = pa.array([name for name, file in files.items() if file in common], pa.string())
    index = pc.index_in(table["image"], value_set=names).combine_chunks()
    rows = np.flatnonzero(index.is_valid().to_numpy(zero_copy_only=False))
    images = pa.array([files[name] for name in names.to_pylist()], pa.string())
    questions = table["question"].take(rows).combine_chunks()
    return (
        pc.binary_join_element_wise(
            images.take(index.drop_null()), pc.utf8_lower(pc.utf8_trim_whitespace(questions)), "\n"
        ),
        rows,
    )
