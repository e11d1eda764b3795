"""NLVR: is a sentence true of a drawing? The first corpus, with synthetic images.

Suhr, Lewis, Yeh and Artzi, "A Corpus of Natural Language for Visual Reasoning", ACL 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pyarrow as pa

from vlm.datasets.official import OfficialDataset
from vlm.datasets.readers.json_file import read_json_lines
from vlm.datasets.readers.official import Rows, each_record, fields, official_file
from vlm.datasets.table import DataError, question_table
from vlm.datasets.table_cache import cached

CHOICES = ["true", "false"]
PERMUTATIONS = 6
"""Images of one example: the same three boxes in every order."""


class NLVR(OfficialDataset):
    """NLVR: `train`, `dev`, and the public test split.

    Each example has six images, so it becomes six questions with the evaluator's names
    (`dev-1572-0-3`). The choices are true and false. Accuracy is the evaluator's `precision`;
    `consistency` is the share of presentations (the first number of an identifier: up to four
    examples with one sentence) for which all answers are right. No size is checked: the paper and
    the site give the 92,244 pairs of all splits, the unreleased one included.

    Args:
        root: folder with `train/train.json`, `train/images/`, and so on for `dev` and `test`.
        validation_share, vocabulary, seed: held-out share, vocabulary rules and seed, as for
            `Dataset`.

    Example:
        >>> data = vlm.datasets.NLVR(root="nlvr")
        >>> data.read("train").column_names[:4]
        ['id', 'image', 'question', 'answers']
    """

    get = "Clone https://github.com/lil-lab/nlvr; `root` is its folder nlvr."
    parts: ClassVar = {"train": "train", "validation": "dev", "test": "test"}

    @cached
    def read_part(self, part: str) -> pa.Table:
        path = official_file(self.root / part / f"{part}.json", self.get)

        def rows(line: int, record: dict[str, Any]) -> Rows:
            sentence, identifier, directory, label = fields(
                record, path, line, sentence=str, identifier=str, directory=str, label=str
            )
            answer = label.lower()
            if answer not in CHOICES or len(identifier.split("-")) != 2:
                raise DataError(
                    f"{path}, line {line}: got the label {label!r} and identifier {identifier!r}; "
                    f"expected true or false, and two numbers such as 1572-0. Is this the "
                    f"set's own file?"
                )
            for permutation in range(PERMUTATIONS):
                key = f"{part}-{identifier}-{permutation}"
                yield {
                    "id": key,
                    "place": f"{path}, line {line}",
                    "image": str(path.parent / "images" / directory / f"{key}.png"),
                    "question": sentence,
                    "answers": [answer],
                    "choices": CHOICES,
                    # The corpus asks that a validation part be cut by folder, since examples of
                    # one folder differ in the order of their boxes only.
                    "group": directory,
                }

        return question_table(each_record(read_json_lines(path), rows), str(path))

    def summarize(
        self, table: pa.Table, predictions: Sequence[str], scores: Sequence[float]
    ) -> dict[str, float]:
        consistent: dict[str, bool] = {}
        for question, score in zip(table["id"].to_pylist(), scores, strict=True):
            presentation = question.split("-")[1]
            consistent[presentation] = consistent.get(presentation, True) and score == 1
        return {"consistency": sum(consistent.values()) / len(consistent)}
