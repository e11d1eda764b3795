"""TDIUC: twelve types of question, each of which counts alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import pyarrow as pa

from vlm.datasets.official import OfficialDatasetWithImages
from vlm.datasets.readers.vqa_format import read_mscoco
from vlm.datasets.table_cache import cached
from vlm.metrics import mean_per_type


class TDIUC(OfficialDatasetWithImages):
    """TDIUC (Kafle and Kanan, "An Analysis of Visual Question Answering Algorithms", ICCV 2017).

    1,654,167 questions of 12 types. From https://kushalkafle.com/projects/tdiuc.html; `root` is its
    folder TDIUC:

        Questions/OpenEnded_mscoco_{train2014,val2014}_questions.json
        Annotations/mscoco_{train2014,val2014}_annotations.json
        Images/train2014/COCO_train2014_000000000009.jpg, and so on for val2014

    Its authors test on val2014; validation is split off from the training images. Each question has
    one answer, the first in the file, as in the authors' script. Metric: simple accuracy by
    question type and its arithmetic and harmonic mean over the types, plain and normalised by
    answer (`vlm.metrics.mean_per_type`). No size is checked: the paper gives only the sum of both
    splits.

    Args:
        root: the folder TDIUC.
        images: folder that contains the image folders; None for `root/Images`.
        validation_share, vocabulary, seed: held-out share, vocabulary rules and seed, as for
            `Dataset`.

    Example:
        >>> data = vlm.datasets.TDIUC(root="tdiuc")
        >>> data.read("train").column_names[:4]
        ['id', 'image', 'question', 'answers']
    """

    types = "question_type"
    unanswerable = "doesnotapply"
    get = "TDIUC: https://kushalkafle.com/projects/tdiuc.html."
    parts: ClassVar = {"train": "train2014", "test": "val2014"}
    image_folder = "Images"

    @cached
    def read_part(self, part: str) -> pa.Table:
        folders = ("Questions", "Annotations")
        return read_mscoco(
            self.root, part, self.images, self.get, "", folders, lambda a: a["answers"][:1]
        )

    def summarize(
        self, table: pa.Table, predictions: Sequence[str], scores: Sequence[float]
    ) -> dict[str, float]:
        answers = [given[0] for given in table["answers"].to_pylist()]
        return mean_per_type(scores, table["question_type"].to_pylist(), answers)._asdict()
