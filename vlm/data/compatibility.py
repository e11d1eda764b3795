"""Whether a split fits a model: what is found before a training or an evaluation begins."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch import nn

from vlm.data.shared_questions import check_shared
from vlm.datasets.base import Dataset, Split
from vlm.datasets.errors import DataError
from vlm.datasets.several import SEPARATOR, most_images
from vlm.datasets.table import source_of, stream
from vlm.heads.generation.head import Generation
from vlm.heads.multi_task import answering
from vlm.model import VQAModel
from vlm.text.prompt import PromptTokenizer


def check_compatible(dataset: Dataset, split: Split, model: VQAModel) -> None:
    """Check that a model can learn from a split, be scored on it, or answer its questions.

    To answer, only the head that answers counts; the others learn and are scored beside it.

    Raises:
        DataError: questions without answers or choices, questions both trained on and scored,
            questions with more images than the model takes,
            no pairs for a head that learns from them, or texts that the model cannot write.
    """
    if split != "predict":
        dataset.check_answers(split)
    if split in ("validation", "test"):
        check_shared(dataset, split)
    table = dataset.table(split)
    check_images(model, table, split)
    check_prompts(model, table, split)
    head = answering(model.head) if split == "predict" else model.head
    if head.takes_choices:
        check_choices(table, split)
    if split == "train" and head.takes_pairs and table["pair"].null_count == len(table):
        raise DataError(
            f"{source_of(table) or split}: no question has a pair, and the head's `consistency` is "
            "learned from pairs. Give the data a column `pair` (Scenes: `--dataset.pairs=true`), "
            "or leave `consistency` at 0."
        )
    check_written(head, table, split)


def check_images(model: VQAModel, table: pa.Table, split: str) -> None:
    """Check that no question has more images than a model takes.

    Raises:
        DataError: naming the first question that has.
    """
    most, taken = most_images(table["image"]), model.fusion.max_images
    if most <= taken:
        return
    counts = pc.count_substring(table["image"], SEPARATOR).to_numpy()
    row = int(np.argmax(counts >= taken))
    place, number = (table[name][row].as_py() for name in ("place", "id"))
    raise DataError(
        f"{place or source_of(table) or split}, column 'image' (id {number!r:.80}): got "
        f"{counts[row] + 1} images; expected at most {taken}, as many as the model takes for a "
        f"question. Train one on questions with {most} images (in Python: "
        f"VQATask(..., max_images={most}))."
    )


def check_prompts(model: VQAModel, table: pa.Table, split: str) -> None:
    """Check that no question has a control token of the language model that reads it.

    Raises:
        DataError: naming the first question that has.
    """
    tokenizer = model.processor.tokenizer
    if not isinstance(tokenizer, PromptTokenizer):
        return
    for row, (question,) in enumerate(stream(table, "question")):
        try:
            tokenizer.check(question or "")
        except ValueError as error:
            place, number = (table[name][row].as_py() for name in ("place", "id"))
            raise DataError(
                f"{place or source_of(table) or split} (id {number!r:.80}): {error}"
            ) from error


def choice_mistakes(table: pa.Table) -> Iterator[tuple[int, str, str]]:
    """The row of each question that cannot be used, the kind of its mistake, and a message.

    What is wrong with a list of choices by itself is found where a table is made.
    """
    for row, (choices, answers) in enumerate(stream(table, "choices", "answers")):
        if choices is None:
            yield row, "no choices", "there are no choices, and the model's head picks from them."
        elif answers is not None and not set(choices) & set(answers):
            yield (
                row,
                "answer not among the choices",
                f"got the answer {answers[0]!r} and the choices {', '.join(map(repr, choices))}; "
                f"expected the answer among them, to the letter.",
            )


def check_choices(table: pa.Table, split: str) -> None:
    """Check that every question has choices, with its answer among them.

    Raises:
        DataError: naming the first question that has not, and how many there are.
    """
    found = choice_mistakes(table)
    first = next(found, None)
    if first is not None:
        row, _, message = first
        place, number = (table[name][row].as_py() for name in ("place", "id"))
        others = sum(1 for _ in found)
        more = f" The same holds for {others:,} more of {len(table):,}." if others else ""
        place = place or source_of(table) or split
        raise DataError(
            f"{place}, column 'choices' (id {number!r}): {message} Correct the data, or take "
            f"another head, such as vlm.heads.Classification.{more}"
        )


def check_written(model: nn.Module, table: pa.Table, split: str) -> None:
    """Check that every head that writes can write what it learns or ranks.

    In evaluation an answer that is too long is judged by its beginning.

    Raises:
        DataError: answers or choices that are too long, with their number, or that a head cannot
            write.
    """
    for head in model.modules():
        if isinstance(head, Generation):
            try:
                if split != "predict":
                    answers = (given for (given,) in stream(table, "answers"))
                    head.check_answers(answers, cut=split != "train")
                if head.takes_choices:
                    head.check_choices(given for (given,) in stream(table, "choices"))
            except ValueError as error:
                raise DataError(f"{split}: {error}") from error
