"""CLEVR: rendered scenes of simple shapes, with questions made from programs.

Johnson, Hariharan, van der Maaten, Fei-Fei, Zitnick and Girshick, "CLEVR: A Diagnostic Dataset for
Compositional Language and Elementary Visual Reasoning", CVPR 2017.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from vlm.core.paths import as_path
from vlm.datasets.base import Dataset, Split
from vlm.datasets.readers.official import check_size, each_record, fields
from vlm.datasets.readers.vqa_format import json_file, json_records
from vlm.datasets.table import question_table
from vlm.datasets.table_cache import cached
from vlm.datasets.vocabulary import VocabularyRules

SITE = "https://cs.stanford.edu/people/jcjohns/clevr/"
GET = f"Get CLEVR_v1.0.zip from {SITE} and unpack it; `root` is its folder CLEVR_v1.0."
# The site's numbers. It gives 14,988 questions for test, a misprint: there are ten for an image.
PUBLISHED = {"train": 699_989, "val": 149_991}


class CLEVR(Dataset):
    """CLEVR v1.0: `train`, `val`, and the official test questions, which have no answers.

    The report's lines are the paper's kinds of question (its figure 4): exist, count, compare
    integer, query attribute, compare attribute. `test.json` and `validation.json` have the last
    function of the program too, such as `query_color` or `less_than`.

    Args:
        root: the folder CLEVR_v1.0 with `questions/` and `images/`.
        validation_share: of the training images, held out where the set has no validation split.
        vocabulary: which words and answers the model knows.
        seed: of the choice of the images held out.

    Example:
        >>> data = vlm.datasets.CLEVR(root="clevr")
        >>> data.read("train").column_names[:4]
        ['id', 'image', 'question', 'answers']
    """

    def __init__(
        self,
        root: Path,
        validation_share: float = 0.1,
        vocabulary: VocabularyRules = VocabularyRules(),  # noqa: B008
        seed: int = 0,
    ) -> None:
        super().__init__(validation_share, vocabulary, seed)
        self.root = as_path("root", root)

    @cached
    def read(self, split: Split) -> pa.Table | None:
        if split == "predict":
            return None
        name = {"train": "train", "validation": "val", "test": "test"}[split]
        path = json_file(self.root / f"questions/CLEVR_{name}_questions.json", GET)
        records = json_records(path, "questions")
        rows = _rows(records, path, self.root / "images" / name, name != "test")
        table = question_table(rows, str(path))
        check_size(len(table), PUBLISHED.get(name), path, SITE)
        return table


def _rows(records: list[Any], path: Path, images: Path, answered: bool) -> Iterator[dict[str, Any]]:
    def rows(number: int, record: Any) -> Iterator[dict[str, Any]]:
        index, image, question = fields(
            record, path, number, question_index=int, image_filename=str, question=str
        )
        row = {
            "id": str(index),
            "number": number,
            "image": str(images / image),
            "question": question,
        }
        if answered:
            answer, program = fields(record, path, number, answer=str, program=list)
            (function,) = fields(program[-1] if program else None, path, number, function=str)
            row |= {
                "answers": [answer],
                "answer_type": _kind(function),
                "question_type": function,
            }
        yield row

    return each_record(enumerate(records, start=1), rows)


def _kind(function: str) -> str:
    """The paper's kind of question, from the last function of its program."""
    if function in ("equal_integer", "less_than", "greater_than"):
        return "compare integer"
    if function.startswith("query_"):
        return "query attribute"
    return "compare attribute" if function.startswith("equal_") else function
