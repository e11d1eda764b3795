"""A custom data set: a file of any common kind, with a split by image where none is given."""

from __future__ import annotations

import json
import warnings
from functools import cached_property
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

import pyarrow as pa

from vlm.core.paths import as_path, as_text
from vlm.core.validation import did_you_mean, nearest
from vlm.datasets.base import Dataset, Split
from vlm.datasets.errors import DataError, is_collecting
from vlm.datasets.readers.annotations import merged
from vlm.datasets.readers.columns import meant, unused_columns
from vlm.datasets.readers.conversations import COLUMN, from_conversations
from vlm.datasets.readers.huggingface import is_data_set, read_data_set, splits_of
from vlm.datasets.readers.image_files import EmbeddedImages
from vlm.datasets.readers.records import file_format, read_records
from vlm.datasets.readers.rows import COLUMNS, CustomRows
from vlm.datasets.table import MEANT, UNUSED, question_table, split_by_image
from vlm.datasets.table_cache import cached
from vlm.datasets.vocabulary import VocabularyRules

TEST_SEED = 0
"""Of a test part that is cut here: the same images whatever the training's seed."""
NAMES = {
    "train": ("train",),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test",),
}
"""What data sets call the splits."""


class _Source(NamedTuple):
    """A file, or a split of a Hugging Face data set."""

    path: str
    split: str | None = None


class CustomDataset(Dataset):
    """Your questions about your images, from a file and without code.

    The columns are `image` (a path, the content of an image file, or a list of several),
    `question`, and `answer` or `answers`. Optional columns are `id` (by default the row's number),
    `type`, `answer_type`, `choices`, `group`, `pair` and `relation`. Other columns are not read.
    docs/own_data.md shows the forms. LLaVA's files of conversations work too
    (docs/conversations.md): by default, their first question and its answer are read.

    Args:
        path: a .jsonl, .json, .csv or .tsv file (each also .gz) or a .parquet file; or a folder or
            hub name of Hugging Face `datasets` ("owner/name", "owner/name:configuration"), with its
            own splits train, validation (val, valid, dev) and test; a single split is divided like
            a file, whatever its name.
        validation: file of the validation split; without it, `validation_share` of the images is
            held out.
        test: file of the test split; it needs no answers for `predict`. Without `validation` and
            `test`, `validation_share` of the images is held out for the test, the same for every
            seed, and then an equal share of the others for validation.
        images: folder from which the paths of images start; None for the folder of their file.
        columns: map from vlm's name of a column to the file's name, if they differ.
        allow_shared_questions: whether training may share questions about an image with validation
            or the test; otherwise vlm refuses them.
        dialogue: whether to read every turn of a conversation, each with the dialogue before it,
            instead of only the first.
        merge_answers: whether to read answers and choices in lower case and without a final full
            stop, which merges those that differ in nothing else.
        validation_share, vocabulary, seed: held-out share, vocabulary rules and seed, as for
            `Dataset`.

    Raises:
        ValueError: a name in `columns` that vlm does not have.

    Example:
        >>> data = vlm.datasets.CustomDataset("my.jsonl", images="photos")
        >>> data.read("train").num_rows
        6
    """

    def __init__(
        self,
        path: str | Path,
        validation: str | Path | None = None,
        test: str | Path | None = None,
        images: Path | None = None,
        columns: dict[str, str] | None = None,
        allow_shared_questions: bool = False,
        merge_answers: bool = False,
        dialogue: bool = False,
        validation_share: float = 0.1,
        vocabulary: VocabularyRules = VocabularyRules(),
        seed: int = 0,
    ) -> None:
        super().__init__(validation_share, vocabulary, seed)
        self.shared_images |= allow_shared_questions
        self.refuses_shared_questions = not allow_shared_questions
        if not isinstance(columns, (dict, NoneType)):
            raise TypeError(
                f"columns: got {columns!r:.80}; expected a dict, our names -> the file's."
            )
        self.merge_answers, self.dialogue = merge_answers, dialogue
        self.mapped = columns or {}
        for name in self.mapped:
            if name not in COLUMNS:
                raise ValueError(
                    f"columns: got {name!r}; expected our name -> the file's name, ours being "
                    f"{', '.join(COLUMNS)}.{did_you_mean(nearest(name, COLUMNS))}"
                )
        self.files = {"train": as_text("path", path)}
        for name, file in (("validation", validation), ("test", test)):
            if file is not None:
                self.files[name] = as_text(name, file)
        self.images = None if images is None else as_path("images", images)
        self.names = {name: self.mapped.get(name, name) for name in COLUMNS}
        self.image_source: EmbeddedImages = EmbeddedImages()

    def read(self, split: Split) -> pa.Table | None:
        """Questions of a split, as for every data set.

        Raises:
            DataError: a mistake in the data, with file, line and column.
        """
        if set(self._sources) == {"train"} and split in ("train", "test"):
            return self._cut[split == "test"]
        return self._table(split) if split in self._sources else None

    def read_whole(self) -> pa.Table | None:
        return self._table("train")

    def check_images(self) -> None:
        if self.images is not None and not self.images.is_dir():
            raise DataError(f"images: {self.images}: there is no such folder.")

    @cached_property
    def _sources(self) -> dict[str, _Source]:
        sources = {name: _source(path, name) for name, path in self.files.items()}
        path = self.files["train"]
        for name in NAMES.keys() - sources.keys() if is_data_set(path) else ():
            splits = splits_of(path)
            there = [own for own in NAMES[name] if own in splits]
            if there and len(splits) > 1:  # a single one is for training
                sources[name] = _Source(path, there[0])
        return sources

    @cached_property
    def _cut(self) -> tuple[pa.Table, pa.Table]:
        """A file that came alone, without and with the images held out for the test."""
        # One image each for training, validation and the test.
        return split_by_image(self._table("train"), self.validation_share, TEST_SEED, least=3)

    def _table(self, split: Split) -> pa.Table:
        table = self._file(split)
        assert table is not None
        if (said := table.schema.metadata.get(MEANT.encode())) and not is_collecting():
            warnings.warn(f"{self._sources[split].path}: {said.decode()}", stacklevel=2)
        return table

    @cached
    def _file(self, split: Split) -> pa.Table | None:
        """A file, of which nothing is held out. Rows of Hugging Face data sets are not kept."""
        path, part = self._sources[split]
        folder = Path(path) if part else Path(path).parent
        rows = CustomRows(
            path,
            self.names,
            self.mapped,
            self.images or folder,
            self.image_source,
            text=file_format(path) in ("csv", "tsv"),
            with_answers=split != "test",
        )
        expected = set(self.names.values())
        there = expected | {COLUMN}
        try:
            records = read_data_set(path, part, there) if part else read_records(path, there)
            read = rows(from_conversations(records, self.dialogue, self.names))
            if self.merge_answers:
                read = map(_with_merged_answers, read)
            table = question_table(read, path, self.names)
        except FileNotFoundError as error:
            raise DataError(str(error)) from None
        answers = " or ".join(self.names[name] for name in sorted(rows.answers_columns))
        unused = unused_columns(rows.there, expected)
        about = self.names | {"answers": answers, UNUSED: json.dumps(unused)}
        if said := meant(unused, rows.there, self.names, self.mapped):
            about[MEANT] = said
        return table.replace_schema_metadata(about | table.schema.metadata)


def _with_merged_answers(row: dict[str, Any]) -> dict[str, Any]:
    texts = {name: row.get(name) for name in ("answers", "choices")}
    return row | {name: list(map(merged, given)) for name, given in texts.items() if given}


def _source(path: str, name: str) -> _Source:
    """A file, or the split of this name; one split alone may have any name."""
    if not is_data_set(path):
        return _Source(path)
    there = list(splits_of(path))
    found = [own for own in NAMES[name] if own in there] or there
    if len(found) > 1:
        raise DataError(f"{path}: has the splits {', '.join(there)}; expected one named {name!r}.")
    return _Source(path, found[0])
