"""PathVQA: questions about pathology images of textbooks.

He, Zhang, Mou, Xing and Xie, "PathVQA: 30000+ Questions for Medical Visual Question Answering",
2020, https://arxiv.org/abs/2003.10286.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from vlm.core.paths import as_path
from vlm.datasets.base import Dataset, Split
from vlm.datasets.readers.image_files import EmbeddedImages
from vlm.datasets.readers.official import MissingFile, each_record, fields
from vlm.datasets.readers.records import Record, read_records
from vlm.datasets.table import DataError, question_table
from vlm.datasets.vocabulary import VocabularyRules

GET = (
    "Get the folder data/ of https://huggingface.co/datasets/flaviagiammarino/path-vqa, such as "
    "data/train-00000-of-00007-*.parquet."
)
_PART = re.compile(r"-(\d{5})-of-(\d{5})")
_YES_NO = ("yes", "no")


class PathVQA(Dataset):
    """PathVQA: `train`, `validation` and `test`, from the Parquet files on Hugging Face.

    The report's lines are yes/no and open questions. The authors' own archive keeps questions in
    pickles, which can run any code when they are opened, so these are not read. No size is checked:
    the paper counts the questions before identical ones were taken out.

    Args:
        root: folder with `data/train-00000-of-00007-*.parquet`, and so on.
        validation_share: of the training images, held out where the set has no validation split.
        vocabulary: which words and answers the model knows.
        seed: of the choice of the images held out.

    Example:
        >>> data = vlm.datasets.PathVQA(root="path_vqa")
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
        self.image_source: EmbeddedImages = EmbeddedImages()

    def read(self, split: Split) -> pa.Table | None:
        if split == "predict":
            return None
        files = _parts(self.root / "data", split)
        return question_table(self._rows(files, split), str(self.root / "data" / split))

    def _rows(self, files: list[Path], split: str) -> Iterator[dict[str, Any]]:
        columns = {"image", "question", "answer"}
        records = ((path, record) for path in files for record in read_records(str(path), columns))
        for row, picture, path in each_record(enumerate(records), partial(_row, split)):
            # No place for pictures is no record's mistake.
            yield row | {"image": self.image_source.add(picture, str(path))}


def _row(
    split: str, number: int, source: tuple[Path, Record]
) -> Iterator[tuple[dict[str, Any], bytes, Path]]:
    path, record = source
    image, question, answer = fields(
        record.values, path, record.number, image=dict, question=str, answer=str
    )
    picture = image.get("bytes")
    if not isinstance(picture, bytes):
        raise DataError(f"{record.place}: the image has no bytes. {GET}")
    row = {
        "id": f"{split}-{number}",
        "place": record.place,
        "question": question,
        "answers": [answer],
        "answer_type": "yes/no" if answer.lower() in _YES_NO else "open",
    }
    yield row, picture, path


def _parts(folder: Path, split: str) -> list[Path]:
    """The split's files in their order, all that their names speak of."""
    found = {}
    for path in folder.glob(f"{split}-*.parquet"):
        if name := _PART.search(path.name):
            found[int(name[1])] = (path, int(name[2]))
    wanted = max((total for _, total in found.values()), default=1)
    for number in range(wanted):
        if number not in found:
            raise MissingFile(
                f"{folder}/{split}-{number:05d}-of-{wanted:05d}*.parquet: there is no such file. "
                f"{GET}"
            )
    return [found[number][0] for number in sorted(found)]
