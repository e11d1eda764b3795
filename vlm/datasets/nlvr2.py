"""NLVR2: is a sentence true of two photographs?

Suhr, Zhou, Zhang, Zhang, Bai and Artzi, "A Corpus for Reasoning About Natural Language Grounded in
Photographs", ACL 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pyarrow as pa

from vlm.datasets.nlvr import CHOICES
from vlm.datasets.official import OfficialDataset
from vlm.datasets.readers.json_file import read_json_lines
from vlm.datasets.readers.official import Rows, each_record, fields, official_file
from vlm.datasets.table import DataError, question_table
from vlm.datasets.table_cache import cached


class NLVR2(OfficialDataset):
    """NLVR2: `train`, `dev` and the public test split `test1`; two images a question.

    The left image comes first. The choices are true and false. Accuracy is the evaluator's
    `precision`; `consistency` is the share of sentences for which the answers to all pairs are
    right. The identifier of an example, `split-set-pair-sentence`, names its images
    `split-set-pair-img0.png` and `-img1.png`; those of `train` are in the example's `directory`.
    No size is checked.

    Args:
        root: folder with `data/train.json`, `data/dev.json` and `data/test1.json`, and with
            `images/train/0/` and so on, `images/dev/` and `images/test1/`.
        validation_share, vocabulary, seed: held-out share, vocabulary rules and seed, as for
            `Dataset`.

    Example:
        >>> data = vlm.datasets.NLVR2(root="nlvr2")
        >>> data.read("train").column_names[:4]
        ['id', 'image', 'question', 'answers']
    """

    get = (
        "Clone https://github.com/lil-lab/nlvr, whose folder nlvr2 has the questions and says how "
        "to get the images."
    )
    parts: ClassVar = {"train": "train", "validation": "dev", "test": "test1"}

    @cached
    def read_part(self, part: str) -> pa.Table:
        path = official_file(self.root / "data" / f"{part}.json", self.get)
        images = self.root / "images" / part

        def rows(line: int, record: dict[str, Any]) -> Rows:
            sentence, identifier, label, directory = fields(
                record,
                path,
                line,
                sentence=str,
                identifier=str,
                label=str,
                directory=str | int | None,
            )
            answer, names = label.lower(), identifier.split("-")
            if answer not in CHOICES or len(names) != 4:
                raise DataError(
                    f"{path}, line {line}: got the label {label!r} and identifier {identifier!r}; "
                    f"expected true or false, and a name such as dev-850-0-0. Is this the set's "
                    f"own file?"
                )
            folder = images if directory is None else images / str(directory)
            pair = identifier.rpartition("-")[0]
            yield {
                "id": identifier,
                "place": f"{path}, line {line}",
                "image": [str(folder / f"{pair}-img{side}.png") for side in (0, 1)],
                "question": sentence,
                "answers": [answer],
                "choices": CHOICES,
                # The corpus asks that a validation part be cut by sets of images.
                "group": "-".join(names[:2]),
            }

        return question_table(each_record(read_json_lines(path), rows), str(path))

    def summarize(
        self, table: pa.Table, predictions: Sequence[str], scores: Sequence[float]
    ) -> dict[str, float]:
        consistent: dict[tuple[str, ...], bool] = {}
        for question, score in zip(table["id"].to_pylist(), scores, strict=True):
            split, images, _, number = question.split("-")
            sentence = split, images, number
            consistent[sentence] = consistent.get(sentence, True) and score == 1
        return {"consistency": sum(consistent.values()) / len(consistent)}
