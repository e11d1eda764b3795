"""VQA-RAD: clinicians' questions about radiology images.

Lau, Gayen, Ben Abacha and Demner-Fushman, "A dataset of clinically generated visual questions and
answers about radiology images", Scientific Data 2018.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from vlm.core.paths import as_path
from vlm.datasets.base import Dataset, Split
from vlm.datasets.readers.official import each_record, fields
from vlm.datasets.readers.vqa_format import json_file, json_records
from vlm.datasets.table import question_table
from vlm.datasets.vocabulary import VocabularyRules

FILE = "VQA_RAD Dataset Public.json"
IMAGES = "VQA_RAD Image Folder"
GET = f"Get {FILE!r} and {IMAGES!r} from https://osf.io/89kps/."


class VQARAD(Dataset):
    """VQA-RAD: the questions marked as test, and the others; validation is cut from these.

    The official test questions are about pictures that training knows too, so a score says nothing
    about new patients. Validation is cut by case (`image_case_url`). The report's lines are closed
    and open questions, `test.json` has the question types. Answers are in lower case: the file
    writes "Yes" and "yes". Its rephrased forms (`question_rephrase`, `question_frame`), which some
    count as questions, are not read. No size is checked: the paper's 3,515 counts them.

    Args:
        root: folder with the JSON file and the image folder, under the names they have there.
        validation_share: of the training images, held out where the set has no validation split.
        vocabulary: which words and answers the model knows.
        seed: of the choice of the images held out.

    Example:
        >>> data = vlm.datasets.VQARAD(root="vqa_rad")
        >>> data.read("train").column_names[:4]
        ['id', 'image', 'question', 'answers']
    """

    shared_images = True

    def __init__(
        self,
        root: Path,
        validation_share: float = 0.1,
        vocabulary: VocabularyRules = VocabularyRules(),  # noqa: B008
        seed: int = 0,
    ) -> None:
        super().__init__(validation_share, vocabulary, seed)
        self.root = as_path("root", root)

    def read(self, split: Split) -> pa.Table | None:
        if split not in ("train", "test"):
            return None
        path = json_file(self.root / FILE, GET)
        records = json_records(path, "questions")
        rows = _rows(records, path, self.root / IMAGES, split == "test")
        return question_table(rows, f"{path} ({split})")


def _rows(records: list[Any], path: Path, images: Path, test: bool) -> Iterator[dict[str, Any]]:
    def rows(number: int, record: Any) -> Iterator[dict[str, Any]]:
        key, image, question, answer, kind, question_type, phrase, case = fields(
            record,
            path,
            number,
            qid=str | int,
            image_name=str,
            question=str,
            answer=str | int,
            answer_type=str,
            question_type=str,
            phrase_type=str,
            image_case_url=str | None,
        )
        if phrase.startswith("test") == test:
            yield {
                "id": str(key),
                "place": f"{path}, question {number}",
                "image": str(images / image),
                "question": question.strip(),
                "answers": [str(answer).strip().lower()],
                "answer_type": kind.strip().lower(),
                "question_type": question_type.strip(),
                "group": case,
            }

    return each_record(enumerate(records, start=1), rows)
