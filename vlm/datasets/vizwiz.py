"""VizWiz: images and spoken questions of blind people, many of which cannot be answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pyarrow as pa
import torch
from torchmetrics.functional.classification import binary_average_precision

from vlm.datasets.official import OfficialDatasetWithImages
from vlm.datasets.readers.official import Rows, fields, json_file, json_records, records_table
from vlm.datasets.readers.vqa_format import answer_text
from vlm.metrics import normalize_answer, per_answer, vizwiz_accuracy

UNANSWERABLE = "unanswerable"


class VizWiz(OfficialDatasetWithImages):
    """VizWiz-VQA (Gurari et al., CVPR 2018): one question per image, with ten answers.

    From https://vizwiz.org/tasks-and-datasets/vqa/; its files in `root`, plain or with `.gz`:

        Annotations/{train,val,test}.json, or the three in `root`
        train/VizWiz_train_00000000.jpg, and so on for val and test

    The image's file name is the question's id. Answer types are other, yes/no, number and
    unanswerable; the question type says "answerable" or "unanswerable" by the set's own mark.
    Metric: accuracy as its evaluator computes it (`vlm.metrics.vizwiz_accuracy`), by answer type,
    and two figures for finding the unanswerable questions: the F1 of the answer "unanswerable" and,
    if the model's vocabulary has that answer, the average precision of ranking by its probability.
    The test split has no published answers; `vlm submit` writes the file for its server.

    Args:
        root: folder of the data set.
        images: folder that contains the image folders; None if they are in `root`.
        validation_share, vocabulary, seed: held-out share, vocabulary rules and seed, as for
            `Dataset`.

    Example:
        >>> data = vlm.datasets.VizWiz(root="vizwiz")
        >>> data.read("train").column_names[:4]
        ['id', 'image', 'question', 'answers']
    """

    watched = unanswerable = UNANSWERABLE

    cited = "https://vizwiz.org/tasks-and-datasets/vqa/"
    get = f"VizWiz: annotations and images from {cited}."
    sizes: ClassVar = {"train": 20_523, "val": 4_319, "test": 8_000}

    def read_part(self, part: str) -> pa.Table:
        folder = self.root / "Annotations"
        path = json_file((folder if folder.is_dir() else self.root) / f"{part}.json", self.get)

        def rows(number: int, record: Any) -> Rows:
            image, question = fields(record, path, number, image=str, question=str)
            row = {
                "id": image,
                "number": number,
                "image": f"{self.images}/{part}/{image}",
                "question": question,
            }
            if part != "test":
                row["answers"], row["answer_type"], answerable = fields(
                    record, path, number, answers=list, answer_type=str, answerable=int
                )
                row["question_type"] = "answerable" if answerable else UNANSWERABLE
            yield row

        return records_table(json_records(path, "questions", answer_text), rows, path)

    def score(self, prediction: str, answers: Sequence[str]) -> float:
        return vizwiz_accuracy(prediction, answers)

    def summarize(
        self, table: pa.Table, predictions: Sequence[str], scores: Sequence[float]
    ) -> dict[str, float]:
        found = [
            UNANSWERABLE if normalize_answer(answer) == UNANSWERABLE else "answerable"
            for answer in predictions
        ]
        counts = per_answer(found, table["question_type"].to_pylist())
        return {"unanswerable_f1": counts[UNANSWERABLE].f1} if UNANSWERABLE in counts else {}

    def summarize_watched(
        self, table: pa.Table, probabilities: Sequence[float]
    ) -> dict[str, float]:
        expected = [int(kind == UNANSWERABLE) for kind in table["question_type"].to_pylist()]
        if not any(expected):  # it is undefined
            return {}
        found = binary_average_precision(torch.tensor(probabilities), torch.tensor(expected))
        return {"unanswerable_average_precision": float(found)}
