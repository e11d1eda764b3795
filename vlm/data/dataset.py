"""Questions, pictures and processor, put together to batches."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from torch.utils.data import Dataset

from vlm.batch import Batch
from vlm.data.images import ImageStore
from vlm.data.sampler import BatchRows
from vlm.processor import Processor


class VQADataset(Dataset[Batch]):
    """Indexed by the rows of a batch, and returns that batch.

    Args:
        table: questions (`vlm.data.questions.SCHEMA`).
        processor: of the model.
        images: None reads pictures when they are needed.
    """

    def __init__(
        self, table: pa.Table, processor: Processor, images: ImageStore | None = None
    ) -> None:
        self.table, self.processor = table.combine_chunks(), processor
        self.images = images or ImageStore(processor.transform)

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: BatchRows) -> Batch:
        columns = self.table.take(index.rows).select(["id", "image", "question", "answers"])
        ids, paths, questions, answers = (column.to_pylist() for column in columns.columns)
        unique: dict[str, int] = {}
        image_index = [unique.setdefault(path, len(unique)) for path in paths]
        first = np.unique(image_index, return_index=True)[1]
        return self.processor.batch(
            self.images.read(list(unique), [ids[i] for i in first]),
            image_index,
            questions,
            None if None in answers else answers,
            ids,
            index.total,
        )
