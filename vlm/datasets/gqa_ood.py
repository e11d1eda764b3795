"""GQA-OOD: rare and frequent answers of GQA's validation and testdev questions, apart.

Kervadec, Antipov, Baccouche and Wolf, "Roses Are Red, Violets Are Blue... But Should VQA Expect
Them To?", CVPR 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa

from vlm.datasets.gqa import read_gqa
from vlm.datasets.official import OfficialDataset
from vlm.datasets.readers.official import json_file
from vlm.datasets.table import joined, with_column
from vlm.datasets.table_cache import cached
from vlm.datasets.vocabulary import VocabularyRules


class GQAOOD(OfficialDataset):
    """GQA-OOD: trained on GQA's balanced questions, validated and tested on its rare answers.

    With `part: all` the report has a line for `head` and one for `tail`, so one run gives acc-all,
    acc-head and acc-tail; `delta` is the paper's (acc-head - acc-tail) / acc-tail. `test.json` has
    the structural types. No size is checked: the repository gives none.

    Args:
        root: GQA's folder (see `GQA`), with the repository's files in `gqa_ood/`.
        part: answers that are rare in their group of questions (`tail`), the others (`head`), or
            both (`all`, whose file is these two together).
        validation_share, vocabulary, seed: held-out share, vocabulary rules and seed, as for
            `Dataset`.

    Example:
        >>> data = vlm.datasets.GQAOOD(root="gqa_ood", part="tail")
        >>> data.read("test").column_names[:4]
        ['id', 'image', 'question', 'answers']
    """

    get = "Put the files of `data/` of https://github.com/gqa-ood/GQA-OOD into `gqa_ood/`."
    parts: ClassVar = {"train": "train", "validation": "val", "test": "testdev"}

    def __init__(
        self,
        root: Path,
        part: Literal["all", "head", "tail"] = "all",
        validation_share: float = 0.1,
        vocabulary: VocabularyRules = VocabularyRules(),
        seed: int = 0,
    ) -> None:
        super().__init__(root, validation_share, vocabulary, seed)
        self.part = part

    @cached
    def read_part(self, part: str) -> pa.Table:
        images = self.root / "images"
        if part == "train":
            return read_gqa(self.root / "questions1.2/train_balanced_questions.json", images)
        tables = []
        for kind in ("head", "tail") if self.part == "all" else (self.part,):
            path = json_file(self.root / "gqa_ood" / f"ood_{part}_{kind}.json", self.get)
            table = read_gqa(path, images)
            table = with_column(table, "question_type", table["answer_type"])
            kinds = pa.array([kind] * len(table), pa.string())
            tables.append(with_column(table, "answer_type", kinds))
        return joined(tables)

    def summarize(
        self, table: pa.Table, predictions: Sequence[str], scores: Sequence[float]
    ) -> dict[str, float]:
        parts = np.asarray(table["answer_type"].to_pylist(), dtype=object)
        means = {part: np.asarray(scores)[parts == part].mean() for part in set(parts)}
        if not means.get("tail") or "head" not in means:
            return {}
        return {"delta": float((means["head"] - means["tail"]) / means["tail"])}
