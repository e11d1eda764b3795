"""VizWiz: photos and spoken questions of blind people, many of which cannot be answered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torchmetrics.functional.classification import binary_average_precision

from vlm.core.paths import as_path
from vlm.datasets.base import Dataset, Split
from vlm.datasets.readers.official import check_size, each_record, fields
from vlm.datasets.readers.vqa_format import answer_text, json_file, json_records
from vlm.datasets.table import question_table
from vlm.datasets.vocabulary import VocabularyRules
from vlm.metrics import normalize_answer, per_answer, vizwiz_accuracy

UNANSWERABLE = "unanswerable"
SITE = "https://vizwiz.org/tasks-and-datasets/vqa/"
SIZES = {"train": 20_523, "val": 4_319, "test": 8_000}


class VizWiz(Dataset):
    """VizWiz-VQA (Gurari et al., CVPR 2018): one question a photo, ten answers.

    From https://vizwiz.org/tasks-and-datasets/vqa/; its files in `root`, plain or with `.gz`:

        Annotations/{train,val,test}.json, or the three in `root`
        train/VizWiz_train_00000000.jpg, and so on for val and test

    The photo's file name is the question's id. Answer types are other, yes/no, number and
    unanswerable; the question type says "answerable" or "unanswerable" by the set's own mark.
    Metric: accuracy as its evaluator computes it (`vlm.metrics.vizwiz_accuracy`), by answer type,
    and how well the unanswerable questions are found, which its evaluator takes as the positives:
    the F1 of the answer "unanswerable" and, where the model's vocabulary has that answer, the
    average precision of ranking by its probability. The test part has no published answers;
    `vlm submit` writes the file for its server.

    Args:
        root: folder of the set.
        images: folder of the photos' folders; None where they are in `root`.
        validation_share: of the training images, held out where the set has no validation split.
        vocabulary: which words and answers the model knows.
        seed: of the choice of the images held out.

    Example:
        >>> data = vlm.datasets.VizWiz(root="vizwiz")
        >>> data.read("train").column_names[:4]
        ['id', 'image', 'question', 'answers']
    """

    watched = UNANSWERABLE

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
        folder = self.root / "Annotations"
        get = f"VizWiz: annotations and photos from {SITE}."
        source = json_file((folder if folder.is_dir() else self.root) / f"{part}.json", get)
        records = json_records(source, "questions", answer_text)
        table = question_table(self._rows(records, source, part), str(source))
        check_size(len(table), SIZES[part], source, SITE)
        return table

    def _rows(self, records: list[Any], source: Path, part: str) -> Iterator[dict[str, Any]]:
        def rows(number: int, record: Any) -> Iterator[dict[str, Any]]:
            image, question = fields(record, source, number, image=str, question=str)
            row = {
                "id": image,
                "number": number,
                "image": f"{self.images}/{part}/{image}",
                "question": question,
            }
            if part != "test":
                kinds = {"answers": list, "answer_type": str, "answerable": int}
                row["answers"], row["answer_type"], answerable = fields(
                    record, source, number, **kinds
                )
                row["question_type"] = "answerable" if answerable else UNANSWERABLE
            yield row

        return each_record(enumerate(records, start=1), rows)

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
        wanted = [int(kind == UNANSWERABLE) for kind in table["question_type"].to_pylist()]
        if not any(wanted):  # it is undefined
            return {}
        found = binary_average_precision(torch.tensor(probabilities), torch.tensor(wanted))
        return {"unanswerable_average_precision": float(found)}
