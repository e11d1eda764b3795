"""Visual7W, telling: multiple-choice questions of six kinds about COCO images.

Zhu, Groth, Bernstein and Fei-Fei, "Visual7W: Grounded Question Answering in Images", CVPR 2016.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import pyarrow as pa

from vlm.datasets.official import OfficialDataset
from vlm.datasets.readers.official import Rows, each_record, fields, json_file, json_records
from vlm.datasets.table import DataError, question_table
from vlm.datasets.table_cache import cached


class Visual7W(OfficialDataset):
    """Visual7W telling: `train`, `val` and `test`, with four choices per question.

    The wrong choices are the set's own. They and the right one are in alphabetical order, so no
    place gives the answer away. The report has a line for each kind of question: what, where, when,
    who, why, how. An answer is right if it equals the right one in lower case, as in the set's
    toolkit: for a head that chooses, this is the multiple-choice accuracy; for others, the
    open-ended accuracy of one guess.

    Args:
        root: folder with `dataset_v7w_telling.json` and `images/v7w_*.jpg`.
        validation_share, vocabulary, seed: held-out share, vocabulary rules and seed, as for
            `Dataset`.

    Example:
        >>> data = vlm.datasets.Visual7W(root="visual7w")
        >>> data.read("train").column_names[:4]
        ['id', 'image', 'question', 'answers']
    """

    get = (
        "Get dataset_v7w_telling.zip and visual7w_images.zip from https://ai.stanford.edu/~yukez/"
        "visual7w/ and unpack them, the images to `images/`."
    )
    sizes: ClassVar = {"val": 28_020}  # of the three splits, the toolkit names this one's size
    cited = "https://github.com/yukezhu/visual7w-toolkit"

    @cached
    def read_part(self, part: str) -> pa.Table:
        path = json_file(self.root / "dataset_v7w_telling.json", self.get)

        def pairs(number: int, record: Any) -> Iterator[tuple[tuple[int, int], tuple[str, Any]]]:
            split, image, given = fields(
                record, path, f"image {number}", split=str, filename=str, qa_pairs=list
            )
            if split == part:
                for place, pair in enumerate(given, start=1):
                    yield (number, place), (image, pair)

        def rows(which: tuple[int, int], source: tuple[str, Any]) -> Rows:
            (number, place), (image, pair) = which, source
            key, question, answer, kind, wrong = fields(
                pair,
                path,
                f"image {number}, pair {place}",
                qa_id=int,
                question=str,
                answer=str,
                type=str,
                multiple_choices=list,
            )
            if answer in wrong or not all(isinstance(choice, str) for choice in wrong):
                raise DataError(
                    f"{path}, question {key}: got the answer {answer!r} and the wrong choices "
                    f"{wrong!r}; expected other texts than the answer."
                )
            yield {
                "id": str(key),
                "place": f"{path}, image {number}",
                "image": str(self.root / "images" / image),
                "question": question,
                "answers": [answer],
                "answer_type": kind,
                "choices": sorted([answer, *wrong]),
            }

        found = each_record(enumerate(json_records(path, "images"), start=1), pairs)
        return question_table(each_record(found, rows), f"{path} ({part})")

    def score(self, prediction: str, answers: Sequence[str]) -> float:
        return float(prediction.lower() == answers[0].lower())
