"""SLAKE: English and Chinese questions about radiology images.

Liu, Zhan, Xu, Ma, Yang and Wu, "SLAKE: A Semantically-Labeled Knowledge-Enhanced Dataset for
Medical Visual Question Answering", ISBI 2021.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from vlm.core.paths import as_path
from vlm.datasets.base import Dataset, Split
from vlm.datasets.readers.official import each_record, fields
from vlm.datasets.readers.vqa_format import json_file, json_records
from vlm.datasets.table import question_table
from vlm.datasets.vocabulary import VocabularyRules

_log = logging.getLogger(__name__)
SITE = "https://www.med-vqa.com/slake/"
GET = f"Get Slake1.0.zip from {SITE} and unpack it; `root` is its folder Slake1.0."


class SLAKE(Dataset):
    """SLAKE 1.0: `train`, `validate` and `test`, in one language or both.

    The report's lines are closed and open questions; `test.json` has the content types (organ,
    modality, abnormality, ...). Questions that need the knowledge graph are read as the others are.
    A Chinese question has no spaces, so a tokenizer of words makes it one word; take a pretrained
    text encoder with subwords. No size is checked: the published counts were not compared with the
    files, which hold both languages.

    Args:
        root: folder with `train.json`, `validate.json`, `test.json` and `imgs/`.
        language: English, Chinese, or both.
        validation_share: of the training images, held out where the set has no validation split.
        vocabulary: which words and answers the model knows.
        seed: of the choice of the images held out.

    Example:
        >>> data = vlm.datasets.SLAKE(root="slake")
        >>> data.read("train").column_names[:4]
        ['id', 'image', 'question', 'answers']
    """

    def __init__(
        self,
        root: Path,
        language: Literal["en", "zh", "both"] = "en",
        validation_share: float = 0.1,
        vocabulary: VocabularyRules = VocabularyRules(),  # noqa: B008
        seed: int = 0,
    ) -> None:
        super().__init__(validation_share, vocabulary, seed)
        self.root, self.language = as_path("root", root), language

    def read(self, split: Split) -> pa.Table | None:
        if split == "predict":
            return None
        name = {"train": "train", "validation": "validate", "test": "test"}[split]
        path = json_file(self.root / f"{name}.json", GET)
        records = json_records(path, "questions")
        rows = self._rows(records, path, self.root / "imgs", name)
        return question_table(rows, str(path))

    def _rows(
        self, records: list[Any], path: Path, images: Path, name: str
    ) -> Iterator[dict[str, Any]]:
        others = 0

        def rows(number: int, record: Any) -> Iterator[dict[str, Any]]:
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
                "image": str(images / image),
                "question": question,
                "answers": [answer],
                "answer_type": kind.lower(),
                "question_type": content_type,
            }

        yield from each_record(enumerate(records, start=1), rows)
        if self.language != "both":
            _log.warning(
                f"SLAKE: {others:,} of {len(records):,} {name} questions are in the other language "
                f"than {self.language!r} and left out."
            )
