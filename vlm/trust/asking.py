"""A model's answers to a table of questions, with all that calibration and its tests need."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlm.adapters.image_text_to_text import ImageTextToText
from vlm.core.calibration import Calibration
from vlm.core.finite import check_finite
from vlm.core.terminal import track
from vlm.core.validation import counted
from vlm.data.batches import VQADataset
from vlm.data.datamodule import VQADataModule
from vlm.data.images.store import Images
from vlm.data.sampler import BatchRows, ImageGroupSampler
from vlm.data.table_rows import TableRows
from vlm.datasets.base import Split
from vlm.datasets.errors import DataError
from vlm.datasets.several import different_images
from vlm.datasets.several import images_of as image_names
from vlm.datasets.table import image_groups
from vlm.heads.calibration import answer_scores, decode, method_for, probabilities
from vlm.image.as_text import in_words
from vlm.model import VQAModel
from vlm.trust.selective import Floats

UNCHANGED = Calibration("temperature", 1.0)


@dataclass
class Asked:
    """Answers to the Q questions of a table, in its order.

    Attributes:
        answers: best answer to each question.
        raw: (Q,) its probability as the head gives it.
        probability: (Q,) after calibration; as `raw` without one.
        of_right: (Q,) probability of the answer that most annotators gave, -inf where the model
            cannot give it; None for heads that write freely.
        set_sizes: (Q,) number of answers in the prediction set; None likewise, or without a
            threshold.
        inputs: what a calibration is fitted to (`vlm.trust.calibrate.fit_map`), one array for each
            batch; empty unless it was asked for.
        rows: the table's row of each of these.
    """

    answers: list[str]
    raw: Floats
    probability: Floats
    of_right: Floats | None
    set_sizes: Floats | None
    inputs: list[Floats]
    rows: NDArray[np.intp]


@torch.inference_mode()
def ask(
    model: VQAModel,
    table: pa.Table,
    images: Images,
    calibration: Calibration | None = None,
    inputs: bool = False,
    images_per_batch: int = 16,
) -> Asked:
    """Ask a model in evaluation mode, image by image.

    Args:
        model: model to ask.
        table: questions.
        images: where their images come from (`images_of`).
        calibration: the model's own.
        inputs: keep what a calibration is fitted to.
        images_per_batch: images in a batch, each with all its questions.

    Raises:
        NotFiniteError: an answer without a finite probability; names its question.
        ImageError: an image that cannot be read.
    """
    device = next(model.parameters()).device
    data = VQADataset(table, model.asking_processor, images, targets=False)
    right = [None if given is None else most_given(given) for given in table["answers"].to_pylist()]
    writes = method_for(model.head) == "length"
    answers = [""] * len(table)
    raw, probability, of_right, sizes = np.zeros((4, len(table)))
    least = None if calibration is None else calibration.set_threshold
    kept, order = [], []
    for index in _batches(table, images_per_batch):
        rows = index.rows
        order.append(rows)
        batch = data[index].to(device)
        output = model(batch)
        own = decode(model.head, output, 1, None)
        raw[rows] = [ranked[0][1] for ranked in own]
        check_finite(torch.from_numpy(raw[rows]), batch.ids)
        best = decode(model.head, output, 1, calibration) if calibration else own
        for row, ranked in zip(rows.tolist(), best, strict=True):
            answers[row], probability[row] = ranked[0]
        if writes and not inputs:  # to write again would take as long as the first time
            continue
        head, scores, names = answer_scores(model.head, output)
        if inputs:
            lengths = [len(in_words(ranked[0][0])) for ranked in own]
            kept.append(_inputs(method_for(head), scores, lengths))
        if not writes:
            shares = probabilities(calibration or UNCHANGED, head, scores)
            pairs = enumerate(zip(names, rows.tolist(), strict=True))
            at = [(n, texts.index(right[r])) for n, (texts, r) in pairs if right[r] in texts]
            of, column = torch.tensor(at, dtype=torch.long).reshape(-1, 2).T
            found = torch.full((len(rows),), -torch.inf)
            found[of] = shares.cpu()[of, column]
            of_right[rows] = found.numpy()
            in_set = (shares >= (least or 0)) & scores.isfinite()
            sizes[rows] = in_set.sum(-1).cpu().numpy()
    return Asked(
        answers,
        raw,
        probability,
        None if writes else of_right,
        None if writes or least is None else sizes,
        kept,
        np.concatenate(order),
    )


def ask_whole(
    vqa: ImageTextToText,
    table: pa.Table,
    images: Images,
    choose: bool,
    images_per_batch: int = 16,
) -> Asked:
    """The same of a model that is asked as it is, which ranks nothing but what it wrote or the
    choices.

    Args:
        vqa: model to ask.
        table: questions.
        images: where their images come from (`images_of`).
        choose: whether to answer from each question's choices.
        images_per_batch: as for `ask`.
    """
    columns = ["id", "image", "question", *(["choices"] if choose else [])]
    rows_of = TableRows(table, columns)
    answers, probability = [""] * len(table), np.zeros(len(table))
    for index in _batches(table, images_per_batch):
        ids, paths, questions, *choices = rows_of.take(index.rows)
        pairs = zip(reversed(paths), reversed(ids), strict=True)
        first = {image: id_ for listed, id_ in pairs for image in image_names(listed)}
        read = images.read(list(first), list(first.values()))
        opened = dict(zip(first, read, strict=True))
        given: Any = choices[0] if choose else None
        shown = [[opened[image] for image in image_names(listed)] for listed in paths]
        found = vqa.answer(shown, questions, 1, given)
        for row, answer in zip(index.rows.tolist(), found, strict=True):
            answers[row], probability[row] = answer.text, answer.probability
    return Asked(answers, probability, probability, None, None, [], np.arange(len(table)))


def _batches(table: pa.Table, images_per_batch: int) -> Iterator[BatchRows]:
    batches = list(ImageGroupSampler(image_groups(table), images_per_batch, seed=None))
    return track(batches, f"Asking {counted(len(table), 'question')}")


def images_of(data: VQADataModule, split: Split, transform: Any) -> Images:
    """The images of a split, as a model's `transform` reads them; none is kept in memory.

    Raises:
        DataError: images or regions that are missing, or of the wrong kind; or a control, whose
            model never saw images and questions as they are.
    """
    if data.control is not None:
        raise DataError(
            f"data.control: got {data.control}; expected null: only a model that sees images and "
            f"questions as they are can be calibrated and reported. `vlm test` scores this one."
        )
    store = data.open_images.store(transform)
    data.open_images.check(different_images(data.table(split)["image"]))
    return store


def _inputs(method: str, scores: Tensor, lengths: list[int]) -> Floats:
    best = scores.max(-1, keepdim=True).values
    if method == "temperature":
        return (scores - best).cpu().numpy()
    if method == "platt":
        return best.cpu().numpy()
    return np.stack([scores[:, 0].cpu().numpy(), np.array(lengths)], 1)


def most_given(given: list[str]) -> str:
    """The answer that most annotators gave."""
    return max(given, key=given.count)
