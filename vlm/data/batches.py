"""Questions, images and processor, put together to batches."""

from __future__ import annotations

import os
import tempfile
import weakref
from contextlib import suppress
from typing import Any

import pyarrow as pa
from torch.utils.data import Dataset

from vlm.core.batch import Batch
from vlm.core.pairs import pairs_among
from vlm.data.images.store import Images, ImageStore
from vlm.data.sampler import BatchRows
from vlm.data.table_rows import TableRows
from vlm.datasets.arrow import map_arrow, write_arrow
from vlm.processor import Processor


class VQADataset(Dataset[Batch]):
    """Indexed by the rows of a batch, and returns that batch.

    Loader workers share one table: forks have it from their parent, others map it from a temporary
    file that goes with this object. If `targets`, batches have those of answers that are known.
    """

    def __init__(
        self,
        table: pa.Table,
        processor: Processor,
        images: Images | None = None,
        targets: bool = True,
    ) -> None:
        self.processor, self.targets = processor, targets
        # Without a store the processor's transform is one of images; its type allows regions too.
        self.images: Images = images or ImageStore(processor.transform)  # type: ignore[arg-type]
        self._file: str | None = None
        self._hold(table)

    def _hold(self, table: pa.Table) -> None:
        columns = ["id", "image", "question", "answers"]
        columns += ["choices"] if self.processor.takes_choices else []
        columns += ["pair", "relation"] if self.processor.takes_pairs else []
        self.table, self._rows = table, TableRows(table, columns)

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: BatchRows) -> Batch:
        ids, paths, questions, answers, *more = self._rows.take(index.rows)
        unique: dict[str, int] = {}
        image_index = [unique.setdefault(path, len(unique)) for path in paths]
        first = dict(zip(reversed(paths), reversed(ids), strict=True))
        choices = more.pop(0) if self.processor.takes_choices else None
        batch = self.processor.batch(
            self.images.read(list(unique), [first[path] for path in unique]),
            image_index,
            questions,
            answers if self.targets and None not in answers else None,
            ids,
            index.total,
            choices,
        )
        return batch._replace(pairs=pairs_among(ids, *more)) if more else batch

    def __getstate__(self) -> dict[str, Any]:
        if self._file is None:
            handle, self._file = tempfile.mkstemp(prefix="vlm-worker-")
            weakref.finalize(self, _remove, self._file, os.getpid())
            with os.fdopen(handle, "wb") as file:
                write_arrow(file, self.table.to_batches(), self.table.schema)
        return self.__dict__ | {"table": None, "_rows": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        assert state["_file"] is not None
        self.__dict__ = state | {"_file": None}
        self._hold(map_arrow(state["_file"]))


def _remove(path: str, owner: int) -> None:
    if os.getpid() == owner:  # not in a forked loader worker
        with suppress(OSError):
            os.unlink(path)
