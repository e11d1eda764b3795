"""CLEVR: rendered scenes of simple shapes, with questions made from programs.

Johnson, Hariharan, van der Maaten, Fei-Fei, Zitnick and Girshick, "CLEVR: A Diagnostic Dataset for
Compositional Language and Elementary Visual Reasoning", CVPR 2017.
"""

from __future__ import annotations

from typing import Any, ClassVar

import pyarrow as pa

from vlm.datasets.official import OfficialDataset
from vlm.datasets.readers.official import Rows, fields, json_file, json_records, records_table
from vlm.datasets.table_cache import cached


class CLEVR(OfficialDataset):
    """CLEVR v1.0: `train`, `val`, and the official test questions, which have no answers.

    The report has a line for each kind of question in the paper's figure 4: exist, count, compare
    integer, query attribute, compare attribute. `test.json` and `validation.json` also have the
    last function of the program, such as `query_color` or `less_than`.

    Args:
        root: the folder CLEVR_v1.0 with `questions/` and `images/`.
        validation_share, vocabulary, seed: held-out share, vocabulary rules and seed, as for
            `Dataset`.

    Example:
        >>> data = vlm.datasets.CLEVR(root="clevr")
        >>> data.read("train").column_names[:4]
        ['id', 'image', 'question', 'answers']
    """

    cited = "https://cs.stanford.edu/people/jcjohns/clevr/"
    get = (
        f"Get CLEVR_v1.0.zip from {cited} and unpack it; `root` is its folder CLEVR_v1.0. "
        "`vlm download clevr --to data/` does both."
    )
    # The site gives 14,988 questions for test, a misprint: there are ten for an image.
    sizes: ClassVar = {"train": 699_989, "val": 149_991}

    @cached
    def read_part(self, part: str) -> pa.Table:
        path = json_file(self.root / f"questions/CLEVR_{part}_questions.json", self.get)

        def rows(number: int, record: Any) -> Rows:
            index, image, question = fields(
                record, path, number, question_index=int, image_filename=str, question=str
            )
            row = {
                "id": str(index),
                "number": number,
                "image": str(self.root / "images" / part / image),
                "question": question,
            }
            if part != "test":
                answer, program = fields(record, path, number, answer=str, program=list)
                (function,) = fields(program[-1] if program else None, path, number, function=str)
                row |= {
                    "answers": [answer],
                    "answer_type": _kind(function),
                    "question_type": function,
                }
            yield row

        return records_table(json_records(path, "questions"), rows, path)


def _kind(function: str) -> str:
    """The paper's kind of question, from the last function of its program."""
    if function in ("equal_integer", "less_than", "greater_than"):
        return "compare integer"
    if function.startswith("query_"):
        return "query attribute"
    return "compare attribute" if function.startswith("equal_") else function
