"""TextVQA: questions about the text in a photo, read here as plain VQA."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from vlm.core.paths import as_path
from vlm.datasets.base import Dataset, Split
from vlm.datasets.readers.official import check_size, each_record, fields
from vlm.datasets.readers.vqa_format import json_file, json_records
from vlm.datasets.table import question_table
from vlm.datasets.vocabulary import VocabularyRules

SITE = "https://textvqa.org/dataset"
SIZES = {"train": 34_602, "val": 5_000, "test": 5_734}


class TextVQA(Dataset):
    """TextVQA v0.5.1 (Singh et al., CVPR 2019) on OpenImages' photos: ten answers a question.

    From https://textvqa.org/dataset; its files in `root`, plain or with `.gz`:

        TextVQA_0.5.1_{train,val,test}.json
        train_images/<image id>.jpg (training and validation), test_images/<image id>.jpg

    Its OCR tokens are not read: the model answers from its vocabulary alone. Metric: VQA accuracy.
    The test server normalises a little otherwise ("'s" and commas). The test part has no published
    answers; `vlm submit` writes the file for EvalAI.

    Args:
        root: folder of the three files.
        images: folder of the photos' folders; None where they are in `root`.
        validation_share: of the training images, held out where the set has no validation split.
        vocabulary: which words and answers the model knows.
        seed: of the choice of the images held out.

    Example:
        >>> data = vlm.datasets.TextVQA(root="text_vqa")
        >>> data.read("train").column_names[:4]
        ['id', 'image', 'question', 'answers']
    """

    def __init__(
        self,
        root: Path,
        images: Path | None = None,
        validation_share: float = 0.1,
        vocabulary: VocabularyRules = VocabularyRules(),  # noqa: B008
        seed: int = 0,
    ) -> None:
        super().__init__(validation_share, vocabulary, seed)
        self.root, self.images = as_path("root", root), as_path("images", images or root)

    def read(self, split: Split) -> pa.Table | None:
        part = {"train": "train", "validation": "val", "test": "test"}.get(split)
        if part is None:
            return None
        get = f"TextVQA: questions and photos from {SITE}."
        source = json_file(self.root / f"TextVQA_0.5.1_{part}.json", get)
        records = json_records(source, "data")
        table = question_table(self._rows(records, source, part), str(source))
        check_size(len(table), SIZES[part], source, SITE)
        return table

    def _rows(self, records: list[Any], source: Path, part: str) -> Iterator[dict[str, Any]]:
        folder = "test_images" if part == "test" else "train_images"

        def rows(number: int, record: Any) -> Iterator[dict[str, Any]]:
            kinds = {"question_id": int, "image_id": str, "question": str}
            key, image, question = fields(record, source, number, **kinds)
            answers = None if part == "test" else fields(record, source, number, answers=list)[0]
            yield {
                "id": str(key),
                "number": number,
                "image": f"{self.images}/{folder}/{image}.jpg",
                "question": question,
                "answers": answers,
            }

        return each_record(enumerate(records, start=1), rows)
