"""GQA: compositional questions about the images of Visual Genome, with single answers.

Hudson and Manning, "GQA: A New Dataset for Real-World Visual Reasoning and Compositional Question
Answering", CVPR 2019.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from os.path import join
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from vlm.datasets.base import Split
from vlm.datasets.official import OfficialDataset
from vlm.datasets.presence import Boxes, Name, Presence
from vlm.datasets.readers.json_file import read_json
from vlm.datasets.readers.official import Rows, each_record, fields, json_file, records_table
from vlm.datasets.sources import is_there
from vlm.datasets.table import DataError, joined, with_rows
from vlm.datasets.table_cache import cached
from vlm.datasets.vocabulary import VocabularyRules
from vlm.metrics import gqa_consistency, gqa_distribution

GET = (
    "Get questions1.2.zip and images.zip from https://cs.stanford.edu/people/dorarad/gqa/"
    "download.html and unpack them to `questions1.2/` and `images/` in the set's folder."
)
_TRAIN_ALL_FILES = 10  # train_all_questions is a folder of so many files
_SEMANTIC = {
    "attr": "attribute",
    "cat": "category",
    "global": "scene",
    "obj": "object",
    "rel": "relation",
}
# An evaluator's rule: "what do they have in common" may be answered by these alone.
_IN_COMMON = ["color", "material", "shape"]

_FACTS = pa.schema(
    [
        pa.field("balanced", pa.bool_()),
        # of the balanced questions alone
        pa.field("entailed", pa.list_(pa.string())),
        pa.field("global_group", pa.string()),
        pa.field("valid", pa.list_(pa.string())),
        pa.field("plausible", pa.list_(pa.string())),
    ]
)
"""What the metrics need beside the columns of every data set."""


class GQA(OfficialDataset):
    """GQA: `train`, `val`, and `testdev` as the test split.

    The report has a line for each structural type (verify, query, choose, logical, compare), and
    `test.json` also has the semantic types (object, attribute, category, relation, scene). Both
    have the evaluator's figures over the balanced questions: accuracy on binary and on open
    questions; distribution (lower is better); consistency, with `test_questions: all`, because the
    entailed questions are not among the balanced ones; validity and plausibility, if the
    evaluator's `val_choices.json` and `testdev_choices.json` (eval.zip of the site) are in `eval/`.
    Grounding, which needs attention maps, is left out. No size is checked: the site and the paper
    give none by split.

    Args:
        root: folder with `questions1.2/` and `images/`, as in the site's archives.
        train_questions: train on the balanced questions, or on all, about fifteen times as many.
        test_questions: questions of validation and test: the balanced ones, or all.
        predict_split: split whose questions `predict` answers; all but testdev come without
            answers, for the evaluation server.
        validation_share, vocabulary, seed: held-out share, vocabulary rules and seed, as for
            `Dataset`.

    Example:
        >>> data = vlm.datasets.GQA(root="gqa")
        >>> data.read("train").column_names[:4]
        ['id', 'image', 'question', 'answers']
    """

    get = GET
    parts: ClassVar = {"validation": "val", "test": "testdev"}

    def __init__(
        self,
        root: Path,
        train_questions: Literal["balanced", "all"] = "balanced",
        test_questions: Literal["balanced", "all"] = "balanced",
        predict_split: Literal["testdev", "test", "challenge", "submission"] = "testdev",
        validation_share: float = 0.1,
        vocabulary: VocabularyRules = VocabularyRules(),
        seed: int = 0,
    ) -> None:
        super().__init__(root, validation_share, vocabulary, seed)
        self.train_questions, self.test_questions = train_questions, test_questions
        self.predict_split = predict_split

    @cached
    def read(self, split: Split) -> pa.Table | None:
        folder, images = self.root / "questions1.2", self.root / "images"
        if split == "train" and self.train_questions == "all":
            parts = folder / "train_all_questions"
            paths = [parts / f"train_all_questions_{n}.json" for n in range(_TRAIN_ALL_FILES)]
            return joined([read_gqa(path, images) for path in paths])
        if split == "train":
            return read_gqa(folder / "train_balanced_questions.json", images)
        if split == "predict":
            if self.predict_split == "testdev":
                return None
            part = "all" if self.predict_split == "submission" else self.test_questions
            path = folder / f"{self.predict_split}_{part}_questions.json"
            return read_gqa(path, images, answered=False)
        return super().read(split)

    def read_part(self, part: str) -> pa.Table:
        path = self.root / f"questions1.2/{part}_{self.test_questions}_questions.json"
        choices = self.root / f"eval/{part}_choices.json"
        return _read_with_facts(path, self.root / "images", choices)

    def presence(self, split: Split) -> Presence | None:
        """The objects of the scene graphs of training and validation (sceneGraphs.zip of the site,
        in `sceneGraphs/`)."""
        part = {"train": "train", "validation": "val"}.get(split)
        path = self.root / f"sceneGraphs/{part}_sceneGraphs.json"
        if part is None or not is_there(path):
            return None
        graphs = read_json(path)

        def objects(image: str) -> dict[Name, Boxes]:
            graph = graphs.get(key := Path(image).stem)
            width, height, listed = fields(graph, path, key, width=int, height=int, objects=dict)
            found: dict[Name, list[tuple[float, float, float, float]]] = {}
            for each in listed.values():
                name, *box = fields(each, path, key, name=str, x=int, y=int, w=int, h=int)
                x, y, w, h = box
                corners = (x / width, y / height, (x + w) / width, (y + h) / height)
                found.setdefault((name,), []).append(corners)
            return dict(found)

        return Presence("Is there a {} in the image?", "yes", "no", objects)

    def summarize(
        self, table: pa.Table, predictions: Sequence[str], scores: Sequence[float]
    ) -> dict[str, float]:
        chosen = table["balanced"].to_numpy(zero_copy_only=False)
        right, given = np.asarray(scores)[chosen], np.asarray(predictions, dtype=object)[chosen]
        balanced = table.filter(pa.array(chosen))
        is_open = np.asarray(balanced["answer_type"].to_pylist(), dtype=object) == "query"
        figures: dict[str, float | None] = {
            "balanced_accuracy": _mean(right),
            "binary_accuracy": _mean(right[~is_open]),
            "open_accuracy": _mean(right[is_open]),
        }
        if not chosen.all():
            ids = balanced["id"].to_pylist()
            figures["consistency"] = gqa_consistency(
                dict(zip(table["id"].to_pylist(), np.asarray(scores) == 1, strict=True)),
                dict(zip(ids, balanced["entailed"].to_pylist(), strict=True)),
            )
        for name, column in (("validity", "valid"), ("plausibility", "plausible")):
            if balanced[column].null_count == 0:
                lists = balanced[column].to_pylist()
                figures[name] = _mean(
                    np.asarray([a in allowed for a, allowed in zip(given, lists, strict=True)])
                )
        answers = [a for (a,) in balanced["answers"].to_pylist()]
        figures["distribution"] = gqa_distribution(
            balanced["global_group"].to_pylist(), answers, given.tolist()
        )
        return {name: float(value) for name, value in figures.items() if value is not None}


def read_gqa(path: Path, images: Path, answered: bool = True) -> pa.Table:
    """The questions of a file in GQA's format; those of a server's split are not answered."""
    return _table(_records(path), path, images, answered)


def _read_with_facts(path: Path, images: Path, choices: Path) -> pa.Table:
    """The same, with the columns of `_FACTS`."""
    records = _records(path)
    table = _table(records, path, images, answered=True)
    allowed = read_json(choices) if is_there(choices) else {}

    def facts(key: str, record: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        balanced, entailed, groups, types = fields(
            record, path, key, isBalanced=bool, entailed=list, groups=dict, types=dict
        )
        known = {"balanced": balanced}
        if balanced:  # the metrics ask the others for their answer only
            (group,) = fields(groups, path, key, **{"global": str | None})
            known |= {"entailed": _texts(entailed, path, key), "global_group": group}
        if balanced and allowed:
            valid, plausible = fields(allowed.get(key), choices, key, valid=list, plausible=list)
            common = "Common" in types["detailed"]
            known["valid"] = _IN_COMMON if common else _texts(valid, choices, key)
            known["plausible"] = _IN_COMMON if common else _texts(plausible, choices, key)
        yield key, known

    ids = table["id"].to_pylist()
    found = dict(each_record(((key, records[key]) for key in ids), facts))
    if len(found) < len(ids):  # malformed ones, reported
        table = with_rows(table, np.asarray([key in found for key in ids]))
    columns = pa.Table.from_pylist(list(found.values()), _FACTS)
    for field in _FACTS:
        table = table.append_column(field, columns[field.name])
    return table


def _texts(values: list[Any], path: Path, key: str) -> list[str]:
    for value in values:
        if not isinstance(value, str):
            raise DataError(
                f"{path}, question {key!r}: got {value!r} in a list of its ids or answers; "
                f"expected texts. Is this the set's own file?"
            )
    return values


def _records(path: Path) -> dict[str, Any]:
    content = read_json(json_file(path, GET))
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected an object with a question for each id, as GQA has it.")
    return content


def _table(records: dict[str, Any], path: Path, images: Path, answered: bool) -> pa.Table:
    def rows(number: int, item: tuple[str, Any]) -> Rows:
        key, record = item
        image, question = fields(record, path, key, imageId=str, question=str)
        row = {
            "id": key,
            "number": number,
            "image": join(images, f"{image}.jpg"),
            "question": question,
        }
        if answered:
            answer, types = fields(record, path, key, answer=str, types=dict)
            structural, semantic, _ = fields(
                types, path, key, structural=str, semantic=str, detailed=str
            )
            row |= {
                "answers": [answer],
                "answer_type": structural,
                "question_type": _SEMANTIC.get(semantic, semantic),
            }
        yield row

    return records_table(records.items(), rows, path)


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
