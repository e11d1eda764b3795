"""OK-VQA and A-OKVQA: questions that need knowledge from outside the photo."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from vlm.core.paths import as_path
from vlm.datasets.base import Dataset, Split
from vlm.datasets.readers.official import check_size, each_record, fields
from vlm.datasets.readers.vqa_format import json_file, json_records, read_mscoco
from vlm.datasets.table import DataError, question_table
from vlm.datasets.vocabulary import VocabularyRules
from vlm.datasets.vqa import COCO_PHOTOS
from vlm.metrics import direct_answer_accuracy, vqa_accuracy

_log = logging.getLogger(__name__)
OK_VQA_SIZES = {"train2014": 9_009, "val2014": 5_046}
"""Of the paper: "9,009 questions in train and 5,046 questions in test"."""


class OKVQA(Dataset):
    """OK-VQA (Marino et al., CVPR 2019): 14,055 questions on COCO's photos of 2014.

    From https://okvqa.allenai.org/download.html; its files in `root`, plain or with `.gz`:

        OpenEnded_mscoco_{train2014,val2014}_questions.json
        mscoco_{train2014,val2014}_annotations.json
        train2014/COCO_train2014_000000000009.jpg, and so on for val2014

    Its authors test on the questions about val2014; a validation part is cut from the training
    images. Ten answers a question, each of five annotators' answers twice, already stemmed by the
    authors (`answer`; `raw_answer` is not read). Metric: VQA accuracy, by knowledge category
    (question types "one" to "ten" and "other").

    Args:
        root: folder of questions and annotations.
        images: folder of the photos' folders; None where they are in `root`.
        validation_share: of the training images, held out where the set has no validation split.
        vocabulary: which words and answers the model knows.
        seed: of the choice of the images held out.

    Example:
        >>> data = vlm.datasets.OKVQA(root="ok_vqa")
        >>> data.read("train").column_names[:4]
        ['id', 'image', 'question', 'answers']
    """

    types = "question_type"

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
        part = {"train": "train2014", "test": "val2014"}.get(split)
        get = "OK-VQA: https://okvqa.allenai.org/download.html, " + COCO_PHOTOS
        if part is None:
            return None
        table = read_mscoco(self.root, part, self.images, get)
        check_size(len(table), OK_VQA_SIZES[part], f"{self.root}, {part}", "arXiv:1906.00067")
        return table


class AOKVQA(Dataset):
    """A-OKVQA (Schwenk et al., ECCV 2022): direct answers and choices, on COCO's photos of 2017.

    From https://github.com/allenai/aokvqa (aokvqa_v1p0.tar.gz); its files in `root`:

        aokvqa_v1p0_{train,val,test}.json
        train2017/000000299207.jpg, and so on for val2017 and test2017

    Metric (the authors' `evaluation/eval_predictions.py`): for direct answers, how many of ten
    annotators gave the very answer, three being enough (`direct_answer_accuracy`), over the
    questions not marked `difficult_direct_answer`; those are left out of validation and said. For
    multiple choice, the share of questions answered with the right choice. The test part has no
    published answers. No size is checked: the repository gives about 25,000 for all splits.

    Args:
        root: folder of the three files.
        images: folder of the photos' folders; None where they are in `root`.
        task: which of the two answers is learned and scored. The choices are read for both.
        validation_share: of the training images, held out where the set has no validation split.
        vocabulary: which words and answers the model knows.
        seed: of the choice of the images held out.

    Example:
        >>> data = vlm.datasets.AOKVQA(root="a_okvqa")
        >>> data.read("train").column_names[:4]
        ['id', 'image', 'question', 'answers']
    """

    def __init__(
        self,
        root: Path,
        images: Path | None = None,
        task: Literal["direct_answer", "multiple_choice"] = "direct_answer",
        validation_share: float = 0.1,
        vocabulary: VocabularyRules = VocabularyRules(),  # noqa: B008
        seed: int = 0,
    ) -> None:
        super().__init__(validation_share, vocabulary, seed)
        self.root, self.images = as_path("root", root), as_path("images", images or root)
        self.task = task

    def read(self, split: Split) -> pa.Table | None:
        part = {"train": "train", "validation": "val", "test": "test"}.get(split)
        if part is None:
            return None
        get = (
            "A-OKVQA: https://github.com/allenai/aokvqa, its photos (COCO 2017) from "
            "https://cocodataset.org/#download."
        )
        source = json_file(self.root / f"aokvqa_v1p0_{part}.json", get)
        records = json_records(source, "questions")
        return question_table(self._rows(records, source, part), str(source))

    def _rows(self, records: list[Any], source: Path, part: str) -> Iterator[dict[str, Any]]:
        difficult = 0

        def rows(number: int, record: Any) -> Iterator[dict[str, Any]]:
            nonlocal difficult
            kinds = {"question_id": str, "image_id": int, "question": str, "choices": list}
            key, image, question, choices = fields(record, source, number, **kinds)
            if part == "val" and self.task == "direct_answer":
                (hard,) = fields(record, source, key, difficult_direct_answer=bool)
                difficult += hard
                if hard:
                    return
            yield {
                "id": key,
                "number": number,
                "image": f"{self.images}/{part}2017/{image:012d}.jpg",
                "question": question,
                "answers": None if part == "test" else self._answers(record, source, choices),
                "choices": choices,
            }

        yield from each_record(enumerate(records, start=1), rows)
        if difficult:
            _log.warning(
                f"A-OKVQA: {difficult} of {len(records)} validation questions are too difficult "
                f"for a direct answer by the set's own mark, and are left out as its authors do."
            )

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
