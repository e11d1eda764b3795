"""SLAKE: English and Chinese questions about radiology images.

Liu, Zhan, Xu, Ma, Yang and Wu, "SLAKE: A Semantically-Labeled Knowledge-Enhanced Dataset for
Medical Visual Question Answering", ISBI 2021.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa

from vlm.datasets.official import OfficialDataset
from vlm.datasets.readers.official import Rows, fields, json_file, json_records, records_table
from vlm.datasets.vocabulary import VocabularyRules

_log = logging.getLogger(__name__)


class SLAKE(OfficialDataset):
    """SLAKE 1.0: `train`, `validate` and `test`, in one language or both.

    The report has lines for closed and open questions; `test.json` has the content types (organ,
    modality, abnormality, ...). Questions that need the knowledge graph are read like the others. A
    Chinese question has no spaces, so use a pretrained text encoder with subwords. No size is
    checked: the published counts were not compared with the files, which hold both languages.

    Args:
        root: folder with `train.json`, `validate.json`, `test.json` and `imgs/`.
        language: English, Chinese, or both.
        validation_share, vocabulary, seed: held-out share, vocabulary rules and seed, as for
            `Dataset`.

    Example:
        >>> data = vlm.datasets.SLAKE(root="slake")
        >>> data.read("train").column_names[:4]
        ['id', 'image', 'question', 'answers']
    """

    get = (
        "Get Slake1.0.zip from https://www.med-vqa.com/slake/ and unpack it; `root` is its folder "
        "Slake1.0."
    )
    parts: ClassVar = {"train": "train", "validation": "validate", "test": "test"}

    def __init__(
        self,
        root: Path,
        language: Literal["en", "zh", "both"] = "en",
        validation_share: float = 0.1,
        vocabulary: VocabularyRules = VocabularyRules(),
        seed: int = 0,
    ) -> None:
        super().__init__(root, validation_share, vocabulary, seed)
        self.language = language

    def read_part(self, part: str) -> pa.Table:
        path = json_file(self.root / f"{part}.json", self.get)
        records = json_records(path, "questions")
        others = 0

        def rows(number: int, record: Any) -> Rows:
            nonlocal others
            key, image, question, answer, kind, content_type, spoken = fields(
                record,
                path,
                number,
                qid=str | int,
                img_name=str,
                question=str,
                answer=str,
                answer_type=str,
                content_type=str,
                q_lang=str,
            )
            if self.language not in (spoken, "both"):
                others += 1
                return
            yield {
                "id": str(key),
                "place": f"{path}, question {number}",
                "image": str(self.root / "imgs" / image),
                "question": question,
                "answers": [answer],
                "answer_type": kind.lower(),
                "question_type": content_type,
            }

        table = records_table(records, rows, path)
        if self.language != "both":
            _log.warning(
                f"SLAKE: {others:,} of {len(records):,} {part} questions are in the other language "
                f"than {self.language!r} and left out."
            )
        return table
