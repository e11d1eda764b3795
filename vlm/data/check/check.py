"""Everything that is wrong with a data set, found before any training."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import combinations, islice

import numpy as np
import pyarrow as pa

from vlm.core.terminal import track, working
from vlm.core.validation import counted, shorten
from vlm.data.check.duplicates import alike_answers, confused_questions
from vlm.data.check.result import DataCheck, SplitSummary
from vlm.data.compatibility import choice_mistakes
from vlm.data.datamodule import VQADataModule
from vlm.data.images.sources import OpenImages
from vlm.data.images.unreadable import unreadable
from vlm.data.shared_questions import REFUSES, by_set, shared_rows
from vlm.datasets.base import Split
from vlm.datasets.baselines import best_scores, compute_floors
from vlm.datasets.errors import DataError, Problems, collecting
from vlm.datasets.several import images_of
from vlm.datasets.table import MEANT, UNUSED, TooFewError, source_of, stream, with_rows
from vlm.heads.base import AnswerKind
from vlm.heads.vocabulary import AnswerVocabulary
from vlm.image.load import ImageError
from vlm.text.words import split_words

SPLITS: tuple[Split, ...] = ("train", "validation", "test", "predict")


def check_data(
    data: VQADataModule,
    limit: int = 10,
    images: bool = True,
    kind: AnswerKind = "vocabulary",
    choices: bool = False,
    in_order: bool | None = True,
) -> DataCheck:
    """Read everything and note every problem.

    Memory grows with the number of different answers and questions, and by a few bytes for each
    row, but not with the rows' content.

    Args:
        data: as a training would get it.
        limit: so many problems of a kind are kept; all are counted.
        images: whether to read the images too.
        kind: how the model answers; floors and ceiling are those of answering so.
        choices: whether it learns from each question's choices too, though it may answer otherwise
            (`MultiTask`). If so, or if it answers from them, they must be there with the answer
            among them.
        in_order: whether the model reads the training questions' words in their order, or as a bag;
            None if it reads something else, such as pieces of words.
    """
    return _Check(data, limit, kind).run(images, choices or kind == "choices", in_order)


class _Check:
    def __init__(self, data: VQADataModule, limit: int, kind: AnswerKind) -> None:
        self.data, self.dataset, self.limit, self.kind = data, data.dataset, limit, kind
        self.found = DataCheck(Problems(limit), Problems(limit), kind=kind)
        self.tables: dict[Split, pa.Table] = {}
        # The first row of each different image, and that image's hash.
        self.first: dict[Split, tuple[np.ndarray, np.ndarray]] = {}

    def run(self, images: bool, choices: bool, in_order: bool | None) -> DataCheck:
        self._read()
        for split in self.tables:
            self._summarize(split)
            self._name_unused(split)
        self._alike_answers()
        if in_order is not None and len(self.tables.get("train", ())):
            self._confused_questions(in_order)
        self._floors(self._wrong_choices() if choices else set())
        with working("Comparing the splits"):
            self._shared("image")
            self._shared("group")
            self._shared_questions()
        if images:
            self._read_images()
        return self.found

    def _read(self) -> None:
        with collecting(self.found.errors):
            for split in SPLITS:
                try:
                    if self.dataset.has(split):
                        self.tables[split] = self.dataset.table(split)
                except TooFewError as error:
                    if not self.found.errors.counts:
                        self.found.errors.add_once(error.kind, str(error))
                except (DataError, OSError) as error:
                    # A file that cannot be read, or cut, fails for each of its splits.
                    self.found.errors.add_once(getattr(error, "kind", DataError.kind), str(error))

    def _summarize(self, split: Split) -> None:
        table = self.tables[split]
        summary = self.found.splits[split] = SplitSummary(len(table))
        images, rows, questions = array("q"), array("q"), array("q")
        content = stream(table, "image", "question", "answers")
        counted = track(content, f"Counting {split} questions", len(table))
        for row, (listed, question, answers) in enumerate(counted):
            for image in map(hash, images_of(listed)):
                if not images or image != images[-1]:  # most questions are about the last image
                    images.append(image)
                    rows.append(row)
            questions.append(hash(question))
            summary.words[len(split_words(question))] += 1
            if answers is not None:
                summary.answered += 1
                summary.answers.update(answers)
        ordered = np.asarray(questions, np.int64)
        ordered.sort()  # in place: `np.unique` would copy
        summary.different = int((ordered[1:] != ordered[:-1]).sum()) + bool(len(ordered))
        del questions, ordered  # before more is made of the images
        hashes, first = np.unique(np.asarray(images, np.int64), return_index=True)
        self.first[split] = hashes, np.asarray(rows, np.int64)[first]
        summary.images = len(self.first[split][0])
        if summary.words[0]:
            self._note(
                self.found.warnings,
                "question without a word",
                split,
                "question",
                (not split_words(question) for (question,) in stream(table, "question")),
                lambda row: f"got {row['question']!r}, of which the model reads nothing.",
            )
        # All of a test's answers may be unknown.
        if summary.answered < len(table) and (summary.answered or split in SPLITS[:2]):
            self._note(
                self.found.errors,
                "no answer",
                split,
                "answers",
                table["answers"].is_null().to_numpy(),
                lambda row: "there is no answer; training, validation and test need one.",
            )

    def _name_unused(self, split: Split) -> None:
        about = self.tables[split].schema.metadata or {}
        file = source_of(self.tables[split]) or split
        if unused := json.loads(about.get(UNUSED.encode(), "[]")):
            self.found.unused[file] = unused
        if columns := about.get(MEANT.encode()):
            self.found.warnings.add_once("unread column", f"{file}: {columns.decode()}")

    def _alike_answers(self) -> None:
        """Only if an option merges them: the metrics of official sets have their own rules."""
        if getattr(self.dataset, "merge_answers", None) is not False:
            return
        answers: Counter[str] = sum((s.answers for s in self.found.splits.values()), Counter())
        for group in alike_answers(answers):
            counts = ", ".join(f"{answer!r} ({counted(count, 'time')})" for answer, count in group)
            self.found.warnings.add(
                "answers that look alike",
                f"{counts} are different answers; --dataset.merge_answers=true merges them (lower "
                f"case, no final full stop).",
            )

    def _confused_questions(self, in_order: bool) -> None:
        rare = self.dataset.vocabulary.min_word_count > 1
        known = set(self.dataset.words) if rare else None

        def read(question: str) -> tuple[str, ...]:
            words = split_words(question)
            if known is not None:
                words = [word if word in known else "" for word in words]
            return tuple(words if in_order else sorted(words))

        table, kind = self.tables["train"], "questions that the model cannot tell apart"
        pairs = confused_questions(table, read)
        for first, second in islice(pairs, self.limit):
            one, other = self._row("train", first), self._row("train", second)
            self.found.warnings.add(
                kind,
                f"{self._where('train', 'question', other)}: the model reads {other['question']!r} "
                f"like {one['question']!r}, which is about the same image and answered "
                f"{shorten(sorted(set(one['answers'])))} instead of "
                f"{shorten(sorted(set(other['answers'])))}.",
            )
        self.found.warnings.add_unsaid(kind, sum(1 for _ in pairs))

    def _wrong_choices(self) -> set[Split]:
        """Note what is wrong with the choices; the splits where anything is."""
        wrong = set()
        for split, table in self.tables.items():
            # Where nothing is scored, only the head that answers counts.
            scored = split in SPLITS[:2] or (
                split == "test" and self.found.splits[split].answered > 0
            )
            if not scored and self.kind != "choices":
                continue
            for number, kind, message in choice_mistakes(table):
                wrong.add(split)
                if self.found.errors.counts[kind] < self.limit:
                    where = self._where(split, "choices", self._row(split, number))
                    self.found.errors.add(kind, f"{where}: {message}")
                else:
                    self.found.errors.add_unsaid(kind, 1)
        return wrong

    def _floors(self, wrong_choices: set[Split]) -> None:
        """Floors and ceiling of the model's kind of answers; with a vocabulary what it lacks."""
        train = self.tables.get("train")
        if train is None or not self.found.splits["train"].answered:
            return
        answers: list[str] | None = None
        if self.kind == "vocabulary":
            try:
                self.found.vocabulary = AnswerVocabulary(self.dataset.answers)
            except ValueError as error:
                self.found.errors.add("no answer vocabulary", str(error))
                return
            answers = self.found.vocabulary.answers
        choose = self.kind == "choices"
        if train["answers"].null_count:
            train = with_rows(train, train["answers"].is_valid().to_numpy())
        for split, summary in self.found.splits.items():
            if not 0 < summary.answered == summary.questions or (choose and split in wrong_choices):
                continue
            table = self.tables[split]
            if split == "train":  # whose floors would be those of answers it was made from
                scores = {"ceiling": best_scores(self.dataset, table, answers, choose)}
            else:
                floors = compute_floors(self.dataset, train, table, answers, choose)
                scores = {
                    "majority": floors.majority,
                    "question_only": floors.question_only,
                    "ceiling": floors.ceiling,
                }
            summary.floors = {name: float(np.mean(values)) for name, values in scores.items()}
            impossible = np.asarray(scores["ceiling"]) == 0
            summary.unanswerable = int(impossible.sum())
            if self.kind == "vocabulary":
                self._note(
                    self.found.warnings,
                    "answer outside the vocabulary",
                    split,
                    "answers",
                    impossible,
                    lambda row: f"the model cannot give {shorten(sorted(set(row['answers'])))}.",
                )

    def _shared(self, column: str) -> None:
        """Report what is in two splits: an error, unless the data set shares it on purpose."""
        hashes = {split: self._hashes(split, column) for split in self.tables}
        for one, other in combinations(self.tables, 2):
            _, rows, others = np.intersect1d(hashes[one][0], hashes[other][0], return_indices=True)
            there, here = hashes[one][1][rows], hashes[other][1][others]
            meant = by_set(self.dataset, self.tables[other], here, "shared_images")
            for own, error in ((~meant, True), (meant, False)):
                self._note_shared(column, one, there[own], other, here[own], error)

    def _shared_questions(self) -> None:
        """Report questions in two splits: an error where they are trained on, unless the data set
        allows it; a warning where they choose the model and test it."""
        for one, other in combinations(SPLITS[:3], 2):
            if not {one, other} <= set(self.tables):
                continue
            here, there = shared_rows(self.tables[other], self.tables[one])
            wrong = by_set(self.dataset, self.tables[other], here, REFUSES) & (one == "train")
            for own, error in ((wrong, True), (~wrong, False)):
                self._note_shared("question", one, there[own], other, here[own], error)

    def _note_shared(
        self,
        column: str,
        one: Split,
        there: np.ndarray,
        other: Split,
        here: np.ndarray,
        wrong: bool,
    ) -> None:
        """Note rows of a split whose value, of a question about the same image, is in another."""
        problems = self.found.errors if wrong else self.found.warnings
        kind, about = f"{column} in two splits", " about the same image" * (column == "question")
        for first, second in zip(there[: self.limit], here[: self.limit], strict=True):
            row, found = self._row(one, int(first)), self._row(other, int(second))
            value = found[column]
            if column == "image":  # of several the one that both have
                value = next(i for i in images_of(value) if i in images_of(row["image"]))
            problems.add(
                kind,
                f"{self._where(other, column, found)}: {value!r:.200}{about} is in {one} too "
                f"({self._where(one, column, row)}).",
            )
        problems.add_unsaid(kind, max(0, len(here) - self.limit))

    def _hashes(self, split: Split, column: str) -> tuple[np.ndarray, np.ndarray]:
        """Of the different values, and the first row of each."""
        if column == "image":
            return self.first[split]
        table = self.tables[split]
        rows = np.flatnonzero(table[column].is_valid().to_numpy())
        values = (value for (value,) in stream(table, column) if value is not None)
        unique, first = np.unique(np.fromiter(map(hash, values), np.int64), return_index=True)
        return unique, rows[first]

    def _read_images(self) -> None:
        try:
            files = self.data.open_images
        except DataError as error:
            self.found.errors.add("unreadable data", str(error))
            return
        seen = np.empty(0, np.int64)
        for split, table in self.tables.items():
            hashes, rows = self.first[split]
            new = rows[~np.isin(hashes, seen)]
            seen = np.union1d(seen, hashes)
            for row, reason in unreadable(files, table, new, split):
                where = self._where(split, "image", row)
                self._note_image(files, row["image"], reason, where)
        # Also the images of rows that are left out for something else, so that one check finds all.
        noted = self.found.errors.images
        columns = {"image": [*noted], "place": [*noted.values()], "id": [*noted]}
        left = pa.table({name: pa.array(texts, pa.string()) for name, texts in columns.items()})
        new = np.flatnonzero(~np.isin(np.fromiter(map(hash, noted), np.int64), seen))
        for row, reason in unreadable(files, left, new, "other"):
            self._note_image(files, row["image"], reason, row["place"])

    def _note_image(self, files: OpenImages, image: str, reason: ImageError, where: str) -> None:
        try:
            files.read(image, "max")
        except ImageError:
            self.found.errors.add(f"{reason.kind} image", f"{where}: {reason}")
        else:  # with the right image encoder, it can be read
            self.found.warnings.add("image without a white level", f"{where}: {reason}")

    def _note(
        self,
        problems: Problems,
        kind: str,
        split: Split,
        column: str,
        wrong: Iterable[bool] | np.ndarray,
        message: Callable[[dict], str],
    ) -> None:
        """Note the rows that are wrong."""
        rows: Iterator[int] = (row for row, is_wrong in enumerate(wrong) if is_wrong)
        for number in islice(rows, self.limit):
            row = self._row(split, number)
            problems.add(kind, f"{self._where(split, column, row)}: {message(row)}")
        problems.add_unsaid(kind, sum(1 for _ in rows))

    def _row(self, split: Split, number: int) -> dict:
        return self.tables[split].slice(number, 1).to_pylist()[0]

    def _where(self, split: Split, column: str, row: dict) -> str:
        names = self.tables[split].schema.metadata or {}  # of Arrow, so in bytes
        column = names.get(column.encode(), column.encode()).decode()
        place = row["place"] or source_of(self.tables[split]) or split
        return f"{place}, column {column!r} (id {row['id']!r})"
