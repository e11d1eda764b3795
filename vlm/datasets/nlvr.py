"""NLVR: is a sentence true of a drawing? The first corpus, with synthetic pictures.

Suhr, Lewis, Yeh and Artzi, "A Corpus of Natural Language for Visual Reasoning", ACL 2017.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from vlm.core.paths import as_path
from vlm.datasets.base import Dataset, Split
from vlm.datasets.readers.json_file import read_json_lines
from vlm.datasets.readers.official import each_record, fields, official_file
from vlm.datasets.table import DataError, question_table
from vlm.datasets.table_cache import cached
from vlm.datasets.vocabulary import VocabularyRules

GET = "Clone https://github.com/lil-lab/nlvr; `root` is its folder nlvr."
CHOICES = ["true", "false"]
PERMUTATIONS = 6
"""Pictures of one example: the same three boxes in every order."""


class NLVR(Dataset):
    """NLVR: `train`, `dev`, and the public test split.

    Each example has six pictures, so it is six questions, named as the evaluator names them
    (`dev-1572-0-3`). The choices are true and false. Accuracy is the evaluator's `precision`;
    `consistency` is the share of presentations (the first number of an identifier: up to four
    examples with one sentence) of which every answer is right. No size is checked: the paper and
    the site give the 92,244 pairs of all splits, the unreleased one included.

    Args:
        root: folder with `train/train.json`, `train/images/`, and so on for `dev` and `test`.
        validation_share: of the training images, held out where the set has no validation split.
        vocabulary: which words and answers the model knows.
        seed: of the choice of the images held out.

    Example:
        >>> data = vlm.datasets.NLVR(root="nlvr")
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
        name = {"train": "train", "validation": "dev", "test": "test"}[split]
        path = official_file(self.root / name / f"{name}.json", GET)
        return question_table(_rows(path, name), str(path))

    def summarize(
        self, table: pa.Table, predictions: Sequence[str], scores: Sequence[float]
    ) -> dict[str, float]:
        consistent: dict[str, bool] = {}
        for question, score in zip(table["id"].to_pylist(), scores, strict=True):
            presentation = question.split("-")[1]
            consistent[presentation] = consistent.get(presentation, True) and score == 1
        return {"consistency": sum(consistent.values()) / len(consistent)}


def _rows(path: Path, name: str) -> Iterator[dict[str, Any]]:
    def rows(line: int, record: dict[str, Any]) -> Iterator[dict[str, Any]]:
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
            key = f"{name}-{identifier}-{permutation}"
            yield {
                "id": key,
                "place": f"{path}, line {line}",
                "image": str(path.parent / "images" / directory / f"{key}.png"),
                "question": sentence,
                "answers": [answer],
                "choices": CHOICES,
                # The corpus asks that a validation part be cut by folder, since examples of one
                # folder differ in the order of their boxes only.
                "group": directory,
            }

    return each_record(read_json_lines(path), rows)
