"""OK-VQA and A-OKVQA: questions that need knowledge from outside the image."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa

from vlm.datasets.official import OfficialDatasetWithImages
from vlm.datasets.readers.official import Rows, fields, json_file, json_records, records_table
from vlm.datasets.readers.vqa_format import read_mscoco
from vlm.datasets.table import DataError
from vlm.datasets.vocabulary import VocabularyRules
from vlm.datasets.vqa import COCO_IMAGES
from vlm.metrics import direct_answer_accuracy, vqa_accuracy

_log = logging.getLogger(__name__)


class OKVQA(OfficialDatasetWithImages):
    """OK-VQA (Marino et al., CVPR 2019): 14,055 questions on COCO's images of 2014.

    From https://okvqa.allenai.org/download.html; its files in `root`, plain or with `.gz`:

        OpenEnded_mscoco_{train2014,val2014}_questions.json
        mscoco_{train2014,val2014}_annotations.json
        train2014/COCO_train2014_000000000009.jpg, and so on for val2014

    Its authors test on the questions about val2014; validation is split off from the training
    images. Each question has ten answers: those of five annotators, each twice, already stemmed by
    the authors (`answer`; `raw_answer` is not read). Metric: VQA accuracy, by knowledge category
    (question types "one" to "ten" and "other").

    Args:
        root: folder with the files of questions and annotations.
        images: folder that contains the image folders; None if they are in `root`.
        validation_share, vocabulary, seed: held-out share, vocabulary rules and seed, as for
            `Dataset`.

    Example:
        >>> data = vlm.datasets.OKVQA(root="ok_vqa")
        >>> data.read("train").column_names[:4]
        ['id', 'image', 'question', 'answers']
    """

    types = "question_type"
    get = "OK-VQA: https://okvqa.allenai.org/download.html, " + COCO_IMAGES
    parts: ClassVar = {"train": "train2014", "test": "val2014"}
    # "9,009 questions in train and 5,046 questions in test"
    sizes: ClassVar = {"train2014": 9_009, "val2014": 5_046}
    cited = "arXiv:1906.00067"

    def read_part(self, part: str) -> pa.Table:
        return read_mscoco(self.root, part, self.images, self.get)


class AOKVQA(OfficialDatasetWithImages):
    """A-OKVQA (Schwenk et al., ECCV 2022): direct answers and choices, on COCO's images of 2017.

    From https://github.com/allenai/aokvqa (aokvqa_v1p0.tar.gz); its files in `root`:

        aokvqa_v1p0_{train,val,test}.json
        train2017/000000299207.jpg, and so on for val2017 and test2017

    Metric (the authors' `evaluation/eval_predictions.py`): for direct answers, how many of ten
    annotators gave exactly this answer, where three are enough (`direct_answer_accuracy`).
    Validation leaves out the questions marked `difficult_direct_answer`, and logs their number. For
    multiple choice, the share of questions answered with the right choice. The test split has no
    published answers. No size is checked: the repository gives about 25,000 for all splits.

    Args:
        root: folder with the three files.
        images: folder that contains the image folders; None if they are in `root`.
        task: which of the two answers is learned and scored. The choices are read for both tasks.
        validation_share, vocabulary, seed: held-out share, vocabulary rules and seed, as for
            `Dataset`.

    Example:
        >>> data = vlm.datasets.AOKVQA(root="a_okvqa")
        >>> data.read("train").column_names[:4]
        ['id', 'image', 'question', 'answers']
    """

    get = (
        "A-OKVQA: https://github.com/allenai/aokvqa, its images (COCO 2017) from "
        "https://cocodataset.org/#download."
    )

    def __init__(
        self,
        root: Path,
        images: Path | None = None,
        task: Literal["direct_answer", "multiple_choice"] = "direct_answer",
        validation_share: float = 0.1,
        vocabulary: VocabularyRules = VocabularyRules(),
        seed: int = 0,
    ) -> None:
        super().__init__(root, images, validation_share, vocabulary, seed)
        self.task = task

    def read_part(self, part: str) -> pa.Table:
        path = json_file(self.root / f"aokvqa_v1p0_{part}.json", self.get)
        records = json_records(path, "questions")
        difficult = 0

        def rows(number: int, record: Any) -> Rows:
            nonlocal difficult
            key, image, question, choices = fields(
                record, path, number, question_id=str, image_id=int, question=str, choices=list
            )
            if part == "val" and self.task == "direct_answer":
                (hard,) = fields(record, path, key, difficult_direct_answer=bool)
                difficult += hard
                if hard:
                    return
            yield {
                "id": key,
                "number": number,
                "image": f"{self.images}/{part}2017/{image:012d}.jpg",
                "question": question,
                "answers": None if part == "test" else self._answers(record, path, choices),
                "choices": choices,
            }

        table = records_table(records, rows, path)
        if difficult:
            _log.warning(
                f"A-OKVQA: {difficult} of {len(records)} validation questions are too difficult "
                f"for a direct answer by the set's own mark, and are left out as its authors do."
            )
        return table

    def _answers(self, record: dict[str, Any], source: Path, choices: list[str]) -> list[str]:
        key = record["question_id"]
        if self.task == "direct_answer":
            (given,) = fields(record, source, key, direct_answers=list)
            return given
        (right,) = fields(record, source, key, correct_choice_idx=int)
        if not 0 <= right < len(choices):
            raise DataError(
                f"{source}, question {key!r}: got correct_choice_idx {right} for {len(choices)} "
                f"choices; expected 0 to {len(choices) - 1}."
            )
        return [choices[right]]

    def score(self, prediction: str, answers: Sequence[str]) -> float:
        if self.task == "direct_answer":
            return direct_answer_accuracy(prediction, answers)
        return vqa_accuracy(prediction, answers)
