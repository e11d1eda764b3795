"""TextVQA: questions about the text in an image, read here as plain VQA."""

from __future__ import annotations

from typing import Any, ClassVar

import pyarrow as pa

from vlm.datasets.official import OfficialDatasetWithImages
from vlm.datasets.readers.official import Rows, fields, json_file, json_records, records_table


class TextVQA(OfficialDatasetWithImages):
    """TextVQA v0.5.1 (Singh et al., CVPR 2019) on OpenImages: ten answers per question.

    From https://textvqa.org/dataset; its files in `root`, plain or with `.gz`:

        TextVQA_0.5.1_{train,val,test}.json
        train_images/<image id>.jpg (training and validation), test_images/<image id>.jpg

    Its OCR tokens are not read: the model answers only from its vocabulary. Metric: VQA accuracy.
    The test server normalises slightly differently ("'s" and commas). The test split has no
    published answers; `vlm submit` writes the file for EvalAI.

    Args:
        root: folder with the three files.
        images: folder that contains the image folders; None if they are in `root`.
        validation_share, vocabulary, seed: held-out share, vocabulary rules and seed, as for
            `Dataset`.

    Example:
        >>> data = vlm.datasets.TextVQA(root="text_vqa")
        >>> data.read("train").column_names[:4]
        ['id', 'image', 'question', 'answers']
    """

    cited = "https://textvqa.org/dataset"
    get = (
        f"TextVQA: questions and images from {cited}; `vlm download text_vqa --to data/` gets them."
    )
    sizes: ClassVar = {"train": 34_602, "val": 5_000, "test": 5_734}

    def read_part(self, part: str) -> pa.Table:
        path = json_file(self.root / f"TextVQA_0.5.1_{part}.json", self.get)
        folder = "test_images" if part == "test" else "train_images"

        def rows(number: int, record: Any) -> Rows:
            key, image, question = fields(
                record, path, number, question_id=int, image_id=str, question=str
            )
            answers = None if part == "test" else fields(record, path, number, answers=list)[0]
            yield {
                "id": str(key),
                "number": number,
                "image": f"{self.images}/{folder}/{image}.jpg",
                "question": question,
                "answers": answers,
            }

        return records_table(json_records(path, "data"), rows, path)
