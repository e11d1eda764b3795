"""Images that cannot be read, left out with their questions as far as the user allows it."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.utilities import rank_zero_warn

from vlm.data.check.images import unreadable
from vlm.data.images.sources import OpenImages
from vlm.datasets.errors import DataError
from vlm.datasets.table import image_groups, with_rows


def without_unreadable(table: pa.Table, files: OpenImages, split: str, at_most: int) -> pa.Table:
    """The questions whose images can be read; each image is read once to see that.

    Args:
        table: questions (`vlm.datasets.table.SCHEMA`).
        files: where their images are.
        split: its name, for the messages.
        at_most: so many images may be left out.

    Raises:
        DataError: more of them cannot be read.
    """
    first = np.unique(image_groups(table), return_index=True)[1]
    broken = list(islice(unreadable(files, table, first, split), at_most + 1))
    if not broken:
        return table
    reason = f"Question {broken[0][0]['id']!r}: {broken[0][1]}"
    if len(broken) > at_most:
        raise DataError(
            f"data.images.skip_unreadable: got {at_most}, and more {split} images than that "
            f"cannot be read. `vlm check-data` lists them all. The first: {reason}"
        )
    images = pa.array([row["image"] for row, _ in broken])
    whole = pc.invert(pc.is_in(table["image"], value_set=images)).to_numpy()
    rank_zero_warn(
        f"{len(broken):,} of {len(first):,} {split} images cannot be read, and are left out with "
        f"{int((~whole).sum()):,} of {len(table):,} questions. The first: {reason}"
    )
    return with_rows(table, whole)


def check_alike(table: pa.Table, split: str, strategy: Strategy) -> None:
    """Check that all processes could read the same images: their batches must fit together.

    Args:
        table: what is left in this process.
        split: its name, for the message.
        strategy: of the trainer.

    Raises:
        DataError: in all processes, if one has other questions than the first.
    """
    own = table["id"].to_pylist()
    first = strategy.broadcast(own)
    # All end by themselves: one that went on would wait for those that did not.
    if not strategy.reduce_boolean_decision(first == own, all=True):
        others = "others in another one" if first == own else f"{len(own):,} or other ones here"
        raise DataError(
            f"data.images.skip_unreadable: got {len(first):,} {split} questions whose images "
            f"the first process could read, and {others}; expected the same. See that all machines "
            f"have the same images."
        )
