"""How time and memory grow with questions, tokens, batch, width and answers.

    python benchmarks/scaling.py                                    # all of it, some 20 minutes
    python benchmarks/scaling.py --only tokens width --repeats 3    # a quick look, rough figures
    python benchmarks/scaling.py --output scaling.md --plot scaling.png

Training is a step from texts to new weights (batch, forward, backward, AdamW), asking a batch from
texts to ranked answers; region features stand in for the image encoder. Three fusions: the product
of pooled vectors, cross-attention between words and patches, and MCAN with self-attention among
patches. Everything but the size in question is as in `BASE`. Questions are rows of a table
(`benchmarks/data.py` makes it): read from VQA v2's files, opened from the cache, brought into an
epoch's order up to the first batch, scored.

How to read the table; s are medians of runs that take turns over the sizes:
  exponent   slope of log time over log size, with the 95 % interval of that straight line: 1 is
             linear, 2 quadratic
  bend       the size at which two straight lines that meet fit best, with the exponents below and
             above it: below it a constant cost prevails
  MiB        most memory held during a step beyond what the model holds (PyTorch's allocator); of
             questions, the largest resident memory of a process of their own, libraries included
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from data import COLORS, Synthetic, in_a_process, write_files
from pairs import machine, markdown, peak_memory, take_turns, timed
from scipy import stats

from vlm import Features, VQAModel
from vlm.evaluation.results import Prediction, Results
from vlm.fusion import MCAN, CrossAttention, Fusion, Pooled, Product
from vlm.heads import Classification
from vlm.image import RegionFeatures
from vlm.text import BagOfWords

BASE = {"tokens": 64, "batch": 8, "width": 128, "answers": 1000}
SIZES = {
    "tokens": [64, 128, 256, 512, 1024],
    "batch": [1, 2, 4, 8, 16, 32, 64, 128, 256, 512],
    "width": [64, 128, 256, 512, 1024],
    "answers": [10, 100, 1000, 10_000, 100_000],
    "questions": [1000, 10_000, 100_000, 1_000_000],
}
FUSIONS: dict[str, Callable[[int], Fusion]] = {
    "product": lambda dim: Pooled(dim, dim, partial(Product, out_dim=dim)),
    "cross-attention": lambda dim: CrossAttention(dim, dim, dim, feedforward_dim=2 * dim),
    "MCAN": lambda dim: MCAN(dim, dim, dim, dim),
}
WORDS = [f"word{number}" for number in range(1000)]
HEADINGS = "size | work | s | exponent | bend: below, above | MiB | exponent"


class Curve(NamedTuple):
    """What one kind of work costs at each size."""

    axis: str
    work: str
    sizes: Sequence[int]
    seconds: Sequence[float]
    mib: Sequence[float]


def exponent(sizes: Sequence[int], values: Sequence[float]) -> str:
    """Slope of the straight line through the logarithms, and its 95 % interval."""
    fit = stats.linregress(np.log(sizes), np.log(values))
    half = stats.t.ppf(0.975, len(sizes) - 2) * fit.stderr
    return f"{fit.slope:.2f} [{fit.slope - half:.2f} - {fit.slope + half:.2f}]"


def bend(sizes: Sequence[int], values: Sequence[float]) -> str:
    """Where two straight lines that meet fit the logarithms best, and their slopes."""
    x, y = np.log(sizes), np.log(values)
    fits = []
    for place in range(1, len(sizes) - 1):
        basis = np.stack([np.ones_like(x), x, np.maximum(x - x[place], 0)], 1)
        factors = np.linalg.lstsq(basis, y, rcond=None)[0]
        fits.append((float(((basis @ factors - y) ** 2).sum()), place, factors))
    _, place, (_, below, more) = min(fits, key=lambda fit: fit[0])
    return f"{sizes[place]:,}: {below:.2f}, {below + more:.2f}"


class Work:
    """A model of one size, its batch, and what is done with them."""

    def __init__(self, fusion: str, tokens: int, batch: int, width: int, answers: int) -> None:
        torch.manual_seed(0)
        joined = FUSIONS[fusion](width)
        self.model = VQAModel(
            RegionFeatures(width),
            BagOfWords(WORDS, width, width),
            joined,
            Classification(joined.out_dim, [f"answer {number}" for number in range(answers)]),
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), fused=True)
        boxes = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(batch, tokens, 4)
        self.images = Features(torch.randn(batch, tokens, width), boxes=boxes)
        self.questions = [" ".join(WORDS[row : row + 10]) for row in range(batch)]
        self.answers = [["answer 1"] * 10] * batch

    def train(self) -> None:
        model = self.model.train()
        index = range(len(self.questions))
        batch = model.processor.batch(self.images, index, self.questions, self.answers)
        model.head.loss(model(batch), batch).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    @torch.inference_mode()
    def ask(self) -> None:
        model = self.model.eval()
        batch = model.processor.batch(self.images, range(len(self.questions)), self.questions)
        model.head.decode(model(batch), 5)


def model_curves(axis: str, repeats: int) -> list[Curve]:
    curves, sizes = [], SIZES[axis]
    for fusion in FUSIONS:
        works = [Work(fusion, **(BASE | {axis: size})) for size in sizes]
        for name, kind in ("training", Work.train), ("asking", Work.ask):
            calls = [partial(kind, work) for work in works]
            mib = []
            for call in calls:
                call()  # the first is slower, and makes the optimiser's state
                mib.append(peak_memory(call))
            seconds = map(
                statistics.median, take_turns([partial(timed, c) for c in calls], repeats)
            )
            curves.append(Curve(axis, f"{name}, {fusion}", sizes, list(seconds), mib))
    return curves


def question_curves(repeats: int) -> list[Curve]:
    works = ("reading the files", "opening the cache", "first batch", "scoring")
    seconds: dict[str, list[float]] = {work: [] for work in works}
    mib: dict[str, list[float]] = {work: [] for work in works[:3]}
    for size in SIZES["questions"]:
        with tempfile.TemporaryDirectory(prefix="vlm-benchmark-") as parent:
            folder = Path(parent)
            write_files(folder, size)
            first = in_a_process("vlm", folder, "none")
            (later,) = take_turns([partial(in_a_process, "vlm", folder, "none")], repeats)
            dataset = Synthetic(folder)
            table = dataset.read("train")
            answers = {key: Prediction(COLORS[0]) for key in table["id"].to_pylist()}
            scoring = partial(Results, table, answers, dataset)
            (scored,) = take_turns([partial(timed, scoring)], repeats)
        seconds[works[0]].append(first["open"])
        seconds[works[1]].append(statistics.median(run["open"] for run in later))
        seconds[works[2]].append(statistics.median(run["first"] for run in later))
        seconds[works[3]].append(statistics.median(scored))
        mib[works[0]].append(first["peak"])
        for work in works[1:3]:
            mib[work].append(statistics.median(run["peak"] for run in later))
    return [
        Curve("questions", work, SIZES["questions"], seconds[work], mib.get(work, ()))
        for work in works
    ]


def row(curve: Curve) -> str:
    cells = [curve.axis, curve.work, span(curve.seconds), exponent(curve.sizes, curve.seconds)]
    cells += [bend(curve.sizes, curve.seconds)]
    cells += [span(curve.mib), exponent(curve.sizes, curve.mib)] if curve.mib else ["", ""]
    return " | ".join(cells)


def span(values: Sequence[float]) -> str:
    return f"{values[0]:.3g} - {values[-1]:.3g}"


def plot(curves: Sequence[Curve], path: Path) -> None:
    axes = list(dict.fromkeys(curve.axis for curve in curves))
    figure, places = plt.subplots(
        2, len(axes), figsize=(3.4 * len(axes), 6), squeeze=False, layout="constrained"
    )
    for column, axis in enumerate(axes):
        for place, label in zip(places[:, column], ("seconds", "MiB"), strict=True):
            for curve in curves:
                values = curve.seconds if label == "seconds" else curve.mib
                if curve.axis == axis and values:
                    place.loglog(curve.sizes, values, marker=".", label=curve.work)
            place.set(xlabel=axis, ylabel=label)
            place.grid(alpha=0.3)
        places[0, column].legend(fontsize=6)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=7, help="runs of each size (7)")
    parser.add_argument("--output", type=Path, help="write the table to this file too")
    parser.add_argument("--plot", type=Path, help="write the curves to this image")
    given = parser.parse_args()
    curves: list[Curve] = []
    for axis in given.only:
        questions = axis == "questions"
        curves += question_curves(given.repeats) if questions else model_curves(axis, given.repeats)
        table = f"{machine()}\n\n{markdown(HEADINGS, [row(curve) for curve in curves])}\n"
        if given.output:
            given.output.write_text(table, encoding="utf-8")
        if given.plot:
            plot(curves, given.plot)
    print(table, end="")


if __name__ == "__main__":
    main()
