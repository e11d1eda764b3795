"""VQA-RAD: clinicians' questions about radiology images.

Lau, Gayen, Ben Abacha and Demner-Fushman, "A dataset of clinically generated visual questions and
answers about radiology images", Scientific Data 2018.
"""

from __future__ import annotations

from typing import Any, ClassVar

import pyarrow as pa

from vlm.datasets.official import OfficialDataset
from vlm.datasets.readers.official import Rows, fields, json_file, json_records, records_table

FILE = "VQA_RAD Dataset Public.json"
IMAGES = "VQA_RAD Image Folder"


class VQARAD(OfficialDataset):
    """VQA-RAD: the questions marked as test, and the others, with a part for validation.

    The official test questions are about images that also occur in training, so a score says
    nothing about new patients. Validation is split off by case (`image_case_url`). The report has
    lines for closed and open questions, and `test.json` has the question types. Answers are read in
    lower case, because the file has both "Yes" and "yes". The rephrased forms (`question_rephrase`,
    `question_frame`), which some count as questions, are not read. No size is checked: the paper's
    3,515 includes them.

    Args:
        root: folder with the JSON file and the image folder, under their original names.
        validation_share, vocabulary, seed: held-out share, vocabulary rules and seed, as for
            `Dataset`.

    Example:
        >>> data = vlm.datasets.VQARAD(root="vqa_rad")
        >>> data.read("train").column_names[:4]
        ['id', 'image', 'question', 'answers']
    """

    shared_images = True

    get = f"Get {FILE!r} and {IMAGES!r} from https://osf.io/89kps/."
    parts: ClassVar = {"train": "train", "test": "test"}

    def read_part(self, part: str) -> pa.Table:
        path = json_file(self.root / FILE, self.get)

        def rows(number: int, record: Any) -> Rows:
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
            if phrase.startswith("test") == (part == "test"):
                yield {
                    "id": str(key),
                    "place": f"{path}, question {number}",
                    "image": str(self.root / IMAGES / image),
                    "question": question.strip(),
                    "answers": [str(answer).strip().lower()],
                    "answer_type": kind.strip().lower(),
                    "question_type": question_type.strip(),
                    "group": case,
                }

        return records_table(json_records(path, "questions"), rows, f"{path} ({part})")
