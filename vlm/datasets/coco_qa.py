"""COCO-QA: questions made from the captions of COCO images, with answers of one word.

Ren, Kiros and Zemel, "Exploring Models and Data for Image Question Answering", NeurIPS 2015.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import pyarrow as pa

from vlm.datasets.official import OfficialDatasetWithImages
from vlm.datasets.readers.official import Rows, official_file, records_table, text_lines
from vlm.datasets.table import DataError
from vlm.metrics import mean_wups

TYPES = ("object", "number", "color", "location")
"""What the numbers of `types.txt` stand for."""
_FILES = ("questions.txt", "answers.txt", "img_ids.txt", "types.txt")


class COCOQA(OfficialDatasetWithImages):
    """COCO-QA: `train` and `test`; validation is split off from the training images.

    The report has a line for each of the four types: object, number, color, location. It gives WUPS
    at 0.9 and 0 if WordNet is installed (`vlm.metrics.wordnet`).

    Args:
        root: folder with `train/` and `test/`, each with questions, answers, image ids and types.
        images: folder with COCO's `train2014/` and `val2014/`; None if they are in `root`.
        validation_share, vocabulary, seed: held-out share, vocabulary rules and seed, as for
            `Dataset`.

    Example:
        >>> data = vlm.datasets.COCOQA(root="coco_qa")
        >>> data.read("train").column_names[:4]
        ['id', 'image', 'question', 'answers']
    """

    cited = "https://www.cs.toronto.edu/~mren/research/imageqa/data/cocoqa/"
    get = (
        f"Get cocoqa-2015-05-17.zip from {cited} and unpack it; COCO's train2014.zip and "
        f"val2014.zip are at https://cocodataset.org/#download."
    )
    parts: ClassVar = {"train": "train", "test": "test"}
    sizes: ClassVar = {"train": 78_736, "test": 38_948}

    def read_part(self, part: str) -> pa.Table:
        folder = self.root / part
        coco = "train2014" if part == "train" else "val2014"
        columns = [text_lines(official_file(folder / name, self.get)) for name in _FILES]
        if len({len(column) for column in columns}) > 1:
            counts = ", ".join(f"{n} {len(c)}" for n, c in zip(_FILES, columns, strict=True))
            raise DataError(
                f"{folder}: got {counts} lines; expected as many in each. Get them again."
            )

        def rows(number: int, line: tuple[str, ...]) -> Rows:
            question, answer, image, kind = line
            if not answer or not image.isdecimal() or kind not in ("0", "1", "2", "3"):
                raise DataError(
                    f"{folder}, line {number} of each file: got the answer {answer!r}, the image "
                    f"id {image!r} and the type {kind!r}; expected a text, a number, and 0 to 3."
                )
            yield {
                "id": f"{part}-{number - 1}",
                "place": f"{folder / _FILES[0]}, line {number}",
                "image": str(self.images / coco / f"COCO_{coco}_{int(image):012d}.jpg"),
                "question": question,
                "answers": [answer],
                "answer_type": TYPES[int(kind)],
            }

        return records_table(zip(*columns, strict=True), rows, folder / _FILES[0])

    def summarize(
        self, table: pa.Table, predictions: Sequence[str], scores: Sequence[float]
    ) -> dict[str, float]:
        return mean_wups(predictions, [answer for (answer,) in table["answers"].to_pylist()])
