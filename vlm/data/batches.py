"""Questions, images and processor, put together to batches."""

from __future__ import annotations

import os
import tempfile
import weakref
from contextlib import suppress
from itertools import count
from typing import Any, NamedTuple

import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vlm.core.batch import Batch
from vlm.core.pairs import pairs_among
from vlm.data.augmentation.options import Augmenter
from vlm.data.images.store import Images, ImageStore
from vlm.data.sampler import BatchRows
from vlm.data.table_rows import TableRows
from vlm.datasets.arrow import map_arrow, write_arrow
from vlm.datasets.several import different_images, images_of, most_images
from vlm.datasets.table import image_groups
from vlm.processor import Processor


class TeacherInput(NamedTuple):
    """How a teacher reads the questions of a training.

    Attributes:
        processor: its own.
        images: its images; None if they are those of the model that learns.
        controlled: whether it too goes without the sides that the batch leaves out: those of
            `data.control`, but not those of `data.augment`.
    """

    processor: Processor
    images: Images | None
    controlled: bool = False


class VQADataset(Dataset[Batch]):
    """Indexed by the rows of a batch, and returns that batch.

    Loader workers share one table: forks have it from their parent, others map it from a temporary
    file that goes with this object. If `targets`, batches have those of answers that are known.
    `augment` changes them at random, for training, and `teacher` adds its own batches of them.
    """

    def __init__(
        self,
        table: pa.Table,
        processor: Processor,
        images: Images | None = None,
        targets: bool = True,
        augment: Augmenter | None = None,
        teacher: TeacherInput | None = None,
    ) -> None:
        self.processor, self.targets, self.augment = processor, targets, augment
        self.teacher = teacher
        # Without a store the processor's transform is one of images; its type allows regions too.
        self.images: Images = images or ImageStore(processor.transform)  # type: ignore[arg-type]
        self._file: str | None = None
        self._hold(table)

    def _hold(self, table: pa.Table) -> None:
        columns = ["id", "image", "question", "answers"]
        columns += ["choices"] if self.processor.takes_choices else []
        columns += ["pair", "relation"] if self.processor.takes_pairs else []
        self.table, self._rows = table, TableRows(table, columns)
        self._groups = None if self.augment is None else image_groups(table)
        self._several = most_images(table["image"]) > 1
        self._numbers: dict[str, int] = {}  # of each image, where lists have other numbers
        if self._several and self.augment is not None:
            names = different_images(table["image"]).to_pylist()
            self._numbers = dict(zip(names, count(), strict=False))

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: BatchRows) -> Batch:
        ids, paths, questions, answers, *more = self._rows.take(index.rows)
        unique: dict[str, int] = {}
        image_index = [unique.setdefault(path, len(unique)) for path in paths]
        first = dict(zip(reversed(paths), reversed(ids), strict=True))
        choices = more.pop(0) if self.processor.takes_choices else None
        different, asked = list(unique), [first[path] for path in unique]
        lists = None
        if self._several:
            different, asked, lists = _single(different, asked)
        images = self.images.read(different, asked)
        theirs = None
        if self.teacher is not None and self.teacher.images is not None:
            theirs = self.teacher.images.read(different, asked)
        no_image = no_question = None
        if self.augment is not None:
            if self._numbers:
                numbers = [self._numbers[image] for image in different]
            else:
                assert self._groups is not None
                of_image = dict(zip(image_index, self._groups[index.rows].tolist(), strict=True))
                numbers = [of_image[row] for row in range(len(unique))]
            images, mirrored = self.augment.images(images, numbers, index.epoch)
            if theirs is not None:
                theirs, _ = self.augment.images(theirs, numbers, index.epoch)
            # Lists of images are not mirrored (`Augment.check`).
            turned = [lists is None and mirrored[row] for row in image_index]
            questions = [
                self.augment.question(question, id_, index.epoch, turn)
                for question, id_, turn in zip(questions, ids, turned, strict=True)
            ]
            answers = [*map(self.augment.texts, answers, turned)]
            choices = choices and [*map(self.augment.texts, choices, turned)]
            no_image, no_question = self.augment.missing(ids, index.epoch)
        batch = self.processor.batch(
            images,
            image_index,
            questions,
            answers if self.targets and None not in answers else None,
            ids,
            index.total,
            choices,
            lists,
        )._replace(no_image=no_image, no_question=no_question)
        if self.teacher is not None:
            seen = images if theirs is None else theirs
            taught = self.teacher.processor.batch(
                seen, image_index, questions, ids=ids, image_lists=lists
            )
            if self.teacher.controlled:
                taught = taught._replace(no_image=no_image, no_question=no_question)
            batch = batch._replace(teacher=taught._replace(ids=[]))
        return batch._replace(pairs=pairs_among(ids, *more)) if more else batch

    def __getstate__(self) -> dict[str, Any]:
        if self._file is None:
            handle, self._file = tempfile.mkstemp(prefix="vlm-worker-")
            weakref.finalize(self, _remove, self._file, os.getpid())
            with os.fdopen(handle, "wb") as file:
                write_arrow(file, self.table.to_batches(), self.table.schema)
        return self.__dict__ | {"table": None, "_rows": None, "_groups": None, "_numbers": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        assert state["_file"] is not None
        self.__dict__ = state | {"_file": None}
        self._hold(map_arrow(state["_file"]))


def _single(lists: list[str], ids: list[str]) -> tuple[list[str], list[str], Tensor | None]:
    """The different images of some lists, the id of a question about each, and the lists as rows of
    them (E, K), with -1 after their end; None if each is one image."""
    rows: dict[str, int] = {}
    asked: list[str] = []
    found = []
    for names, id_ in zip(map(images_of, lists), ids, strict=True):
        found.append([rows.setdefault(name, len(rows)) for name in names])
        asked += [id_] * (len(rows) - len(asked))
    most = max(map(len, found), default=1)
    if most == 1:
        return list(rows), asked, None
    return list(rows), asked, torch.tensor([row + [-1] * (most - len(row)) for row in found])


def _remove(path: str, owner: int) -> None:
    if os.getpid() == owner:  # not in a forked loader worker
        with suppress(OSError):
            os.unlink(path)
