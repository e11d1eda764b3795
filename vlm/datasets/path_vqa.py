"""PathVQA: questions about pathology images of textbooks.

He, Zhang, Mou, Xing and Xie, "PathVQA: 30000+ Questions for Medical Visual Question Answering",
2020, https://arxiv.org/abs/2003.10286.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from vlm.datasets.official import OfficialDataset
from vlm.datasets.readers.image_files import EmbeddedImages
from vlm.datasets.readers.official import MissingFile, Rows, each_record, fields
from vlm.datasets.readers.records import Record, read_records
from vlm.datasets.table import DataError, question_table

_PART = re.compile(r"-(\d{5})-of-(\d{5})")
_YES_NO = ("yes", "no")


class PathVQA(OfficialDataset):
    """PathVQA: `train`, `validation` and `test`, from the Parquet files on Hugging Face.

    The report has lines for yes/no and open questions. The authors' own archive keeps questions in
    pickles, which can run any code when they are opened, so vlm does not read them. No size is
    checked: the paper counts the questions before duplicates were removed.

    Args:
        root: folder with `data/train-00000-of-00007-*.parquet`, and so on.
        validation_share, vocabulary, seed: held-out share, vocabulary rules and seed, as for
            `Dataset`.

    Example:
        >>> data = vlm.datasets.PathVQA(root="path_vqa")
        >>> data.read("train").column_names[:4]
        ['id', 'image', 'question', 'answers']
    """

    get = (
        "Get the folder data/ of https://huggingface.co/datasets/flaviagiammarino/path-vqa, such "
        "as data/train-00000-of-00007-*.parquet."
    )
    parts: ClassVar = {"train": "train", "validation": "validation", "test": "test"}

    @cached_property
    def image_source(self) -> EmbeddedImages:  # type: ignore[override]  # it can be set too
        return EmbeddedImages()

    def read_part(self, part: str) -> pa.Table:
        return question_table(self._rows(part), str(self.root / "data" / part))

    def _rows(self, part: str) -> Rows:
        def rows(
            number: int, source: tuple[Path, Record]
        ) -> Iterator[tuple[dict[str, Any], bytes, Path]]:
            path, record = source
            image, question, answer = fields(
                record.values, path, record.number, image=dict, question=str, answer=str
            )
            content = image.get("bytes")
            if not isinstance(content, bytes):
                raise DataError(f"{record.place}: the image has no bytes. {self.get}")
            row = {
                "id": f"{part}-{number}",
                "place": record.place,
                "question": question,
                "answers": [answer],
                "answer_type": "yes/no" if answer.lower() in _YES_NO else "open",
            }
            yield row, content, path

        columns, files = {"image", "question", "answer"}, self._files(part)
        records = ((path, record) for path in files for record in read_records(str(path), columns))
        for row, content, path in each_record(enumerate(records), rows):
            # A full disk is no record's mistake.
            yield row | {"image": self.image_source.add(content, str(path))}

    def _files(self, part: str) -> list[Path]:
        """The split's files in their order, all that their names speak of."""
        folder, found = self.root / "data", {}
        for path in folder.glob(f"{part}-*.parquet"):
            if name := _PART.search(path.name):
                found[int(name[1])] = (path, int(name[2]))
        total = max((total for _, total in found.values()), default=1)
        for number in range(total):
            if number not in found:
                raise MissingFile(
                    f"{folder}/{part}-{number:05d}-of-{total:05d}*.parquet: there is no such "
                    f"file. {self.get}"
                )
        return [found[number][0] for number in sorted(found)]
