"""How an export compares with its model, over a whole validation split."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from vlm.asking import Asking
from vlm.core.terminal import track, working
from vlm.core.validation import counted
from vlm.data.compatibility import check_compatible
from vlm.data.datamodule import VQADataModule
from vlm.data.images.sources import OpenImages
from vlm.data.sampler import ImageGroupSampler
from vlm.datasets.table import clusters, has_groups, image_groups
from vlm.export.exported import Exported
from vlm.export.manifest import MANIFEST, write_manifest
from vlm.heads.calibration import decode
from vlm.heads.multi_task import MultiTask, answering
from vlm.heads.multiple_choice import ChoiceScores
from vlm.inference import VQA
from vlm.metrics import Interval, bootstrap_interval

TIMED = 50
"""Images that latency is the median of."""
HEADINGS = ("accuracy %", "95 % interval", "new image and question ms", "next question ms")


@dataclass(frozen=True)
class Parity:
    """The comparison of an export with its model.

    Attributes:
        questions: number of validation questions.
        equal: number of questions to which both give the same answer.
        largest_difference: the largest difference between the two logits of an answer or choice;
            for a decoder, between the logarithms of the probabilities of equal answers, calibrated
            if the model is.
        accuracy, interval: mean score in [0, 1] by the data set's metric and its 95 % interval,
            under the names "torch" and "export".
        milliseconds: median time under the same names, of a new image with its question ("first")
            and of another question about it ("second").
        threads: number of threads of both.
        megabytes: size of the export in MB.

    Example:
        model, data = vlm.load(run), vlm.VQADataModule(vlm.datasets.EasyVQA())
        parity = measure_parity(model, Exported(export(model, "my_export")), data)
        print(parity.equal, parity.questions, parity.largest_difference)
    """

    questions: int
    equal: int
    largest_difference: float
    accuracy: dict[str, float]
    interval: dict[str, Interval]
    milliseconds: dict[str, dict[str, float]]
    threads: int
    megabytes: float

    def write(self, exported: Exported) -> None:
        """Write `parity.json` and `parity.md` to the export's folder, digests included."""
        values = asdict(self) | {"interval": {k: v._asdict() for k, v in self.interval.items()}}
        folder, about = exported.folder, exported.about
        (folder / "parity.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        (folder / "parity.md").write_text(self.table(about), encoding="utf-8")
        write_manifest(folder, about)
        exported.about = json.loads((folder / MANIFEST).read_bytes())

    def table(self, about: dict[str, Any]) -> str:
        """The report in Markdown."""
        lines = [
            *self.findings(about),
            "",
            f"| {' | '.join(('', *HEADINGS))} |",
            f"|---|{len(HEADINGS) * '---:|'}",
            *(f"| {' | '.join(row)} |" for row in self.rows()),
        ]
        return "\n".join([*lines, "", self.note, ""])

    def findings(self, about: dict[str, Any]) -> list[str]:
        """Sentences on what was exported and how often both answers agree."""
        return [
            f"{', '.join(about['parts'].values())}: {about['graph_format']}, {about['precision']}, "
            f"{self.megabytes:.2f} MB.",
            "",
            f"- Equal answers: {self.equal:,} of {self.questions:,} validation questions.",
            f"- Largest difference: {self.largest_difference:.2g}.",
        ]

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Model and export with their figures under `HEADINGS`."""
        for name in self.accuracy:
            low, high, _ = self.interval[name]
            figures = [100 * self.accuracy[name], *self.milliseconds[name].values()]
            accuracy, first, second = (f"{figure:.2f}" for figure in figures)
            yield name, accuracy, f"{100 * low:.2f} - {100 * high:.2f}", first, second

    @property
    def note(self) -> str:
        """A note on how the times were measured."""
        threads = counted(self.threads, "thread")
        return f"Medians over {TIMED} images at most, {threads}, one at a time."


@torch.inference_mode()
def measure_parity(model: VQA, exported: Exported, data: VQADataModule) -> Parity:
    """Ask a model and its export all validation questions. Each reads images and questions by
    itself, so what is compared is the whole way from a file to an answer.

    Args:
        model: the model.
        exported: what was exported of it.
        data: its data.

    Raises:
        DataError: data that do not fit the model.
        ImageError: an image that cannot be read.
    """
    check_compatible(data.dataset, "validation", model.model)
    table, files = data.table("validation"), data.open_images
    equal, largest = 0, 0.0
    scores: dict[str, list[float]] = {"torch": [], "export": []}
    batches = list(ImageGroupSampler(image_groups(table), data.images_per_batch))
    for batch in track(batches, "Comparing model and export"):
        part = table.take(batch.rows)
        own, theirs = _both(model, exported, part, files)
        for mine, other in zip(own, theirs, strict=True):
            equal += mine.answer == other.answer
            if mine.answer == other.answer or len(mine.logits) > 1:
                difference = np.abs(np.subtract(mine.logits, other.logits)).max()
                largest = float(np.maximum(largest, difference))  # NaN stays
        for name, said in (("torch", own), ("export", theirs)):
            scores[name] += data.dataset.scores(part, [one.answer for one in said])
    # Parts have the table's rows in the order of their images.
    order = np.argsort(image_groups(table), kind="stable")
    groups, unit = clusters(table)[order].tolist(), "group" if has_groups(table) else "image"
    interval = {
        name: bootstrap_interval(values, groups, unit=unit) for name, values in scores.items()
    }
    accuracy = {name: math.fsum(values) / len(values) for name, values in scores.items()}
    rows, threads = _first_rows(table), torch.get_num_threads()
    timed = Exported(exported.folder, threads, trust=True)
    with working("Timing model and export"):
        milliseconds = {
            "torch": _milliseconds(model, rows, files),
            "export": _milliseconds(timed, rows, files),
        }
    size = sum(p.stat().st_size for p in exported.folder.iterdir() if p.stem != "parity")
    return Parity(len(table), equal, largest, accuracy, interval, milliseconds, threads, size / 1e6)


@dataclass(frozen=True)
class _Said:
    answer: str
    logits: list[float]


def _both(
    model: VQA, exported: Exported, part: pa.Table, files: OpenImages
) -> tuple[list[_Said], list[_Said]]:
    """What model and export say to the questions of a few images."""
    paths = part["image"].unique().to_pylist()
    index = [paths.index(path) for path in part["image"].to_pylist()]
    questions, contents = part["question"].to_pylist(), [files.content(path) for path in paths]
    processor, head = model.model.asking_processor, model.model.head
    choices = part["choices"].to_pylist() if processor.takes_choices else None
    transform: Any = processor.transform
    images = transform.stack([transform.open(content) for content in contents])
    batch = processor.batch(images, index, questions, choices=choices)
    output = model.model(batch)
    own = [ranked[0] for ranked in decode(head, output, 1, model.calibration)]
    scored = output[head.answers_by] if isinstance(head, MultiTask) else output
    scored = scored.logits if isinstance(scored, ChoiceScores) else scored

    prepared = exported.prepare(np.stack([exported.transform.open(c) for c in contents]))
    gathered = {name: rows[index] for name, rows in prepared.items()}
    said = exported.output(gathered, exported.read(*exported.tokenizer(questions)), choices)
    theirs = [ranked[0] for ranked in exported.ranked(said, choices)]
    if answering(head).writes_text:
        pairs = [[(text, [math.log(p)]) for text, p in each] for each in (own, theirs)]
    else:
        widths = [len(given) for given in choices] if choices else [None] * len(questions)
        pairs = [
            [
                (t, row[:width].tolist())
                for (t, _), row, width in zip(each, rows, widths, strict=True)
            ]
            for each, rows in ((own, scored), (theirs, said["logits"]))
        ]
    return [_Said(*pair) for pair in pairs[0]], [_Said(*pair) for pair in pairs[1]]


def _first_rows(table: pa.Table) -> list[dict[str, Any]]:
    first = np.unique(image_groups(table), return_index=True)[1][:TIMED]
    rows: list[dict[str, Any]] = table.take(first).to_pylist()
    return rows


def _milliseconds(asked: Asking, rows: list[dict[str, Any]], files: OpenImages) -> dict[str, float]:
    first, second = [], []
    for row in rows:
        content = files.content(row["image"])
        choices = row["choices"] if asked.kind == "choices" else None
        start = perf_counter()
        seen = asked.see(content)
        middle = perf_counter()
        asked.answer(seen, row["question"], choices=choices)
        end = perf_counter()
        first.append(1000 * (end - start))
        second.append(1000 * (end - middle))
    return {"first": median(first), "second": median(second)}
