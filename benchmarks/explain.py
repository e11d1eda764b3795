"""Are explanations true of the model, and do they point at the object? On easy-VQA.

    python benchmarks/explain.py RUN
    python benchmarks/explain.py RUN --images 100 --faithful 20

Every method that fits the model explains its answer to one question an image. easy-VQA draws one
shape on a plain ground, so every pixel that differs from the corner is the shape.

- peak: share of the images whose map has its peak (the middle of the strongest cell) inside the
  shape, and mass: share of the map's magnitude there; of the trained model, of the same model with
  random weights, and for the area of the shape. The method is chosen on validation, by its peak.
- deletion, insertion, comprehensiveness, sufficiency (`vlm.explain.faithfulness`), against the mean
  of parts in random order, in units of evidence.
- sanity: rank correlation of the magnitudes of the maps before and after the weights became random,
  over all cells, and over those that touch the shape: on the plain ground both may be zero.
- ms, CPU ms: median time of an answer and its explanation with a map for every word, by the clock
  and of the processor, which tells more on a machine that does other work.

Intervals are 95 %: Wilson's for shares, of the normal distribution for means.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import numpy as np
import pyarrow as pa
from PIL import Image
from rich.progress import track

from vlm.datasets import EasyVQA
from vlm.explain import METHODS, Explanation, explain, methods_for
from vlm.explain.explainer import explain_case, make_case
from vlm.explain.faithfulness import (
    UNCHANGED,
    Faithfulness,
    patch_faithfulness,
    randomised,
    rank_correlation,
    word_faithfulness,
)
from vlm.inference import VQA, load

Values = dict[str, dict[str, list[float]]]
"""Measured values by method and name."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", help="a run's folder or a checkpoint, trained on easy-VQA")
    parser.add_argument("--images", type=int, help="of each split at most (default all)")
    parser.add_argument("--faithful", type=int, default=100, help="images whose parts are deleted")
    given = parser.parse_args()
    vqa = load(given.run)
    control = randomised(vqa)
    names = methods_for(vqa.model)
    data = EasyVQA()
    validation = [*one_question_each(data.table("validation"))][: given.images]
    test = [*one_question_each(data.table("test"))][: given.images]

    chosen_by = point({"": vqa}, validation, names)
    best = max(names, key=lambda name: np.mean(chosen_by[name]["peak"]))
    found = point({"": vqa, " random": control}, test, names)
    print(f"{len(validation)} validation and {len(test)} test images, one question each.\n")
    print("| method | validation: peak % | test: peak % | random weights % | mass % | random % |")
    print("|---|---:|---:|---:|---:|---:|")
    for name in names:
        row = found[name]
        print(
            f"| {name}{' (chosen)' if name == best else ''} | {share(chosen_by[name]['peak'])} | "
            f"{share(row['peak'])} | {share(row['peak random'])} | {average(row['mass'], 100)} | "
            f"{average(row['mass random'], 100)} |"
        )
    area = found["area"]
    print(f"| the shape's area | | {average(area['area'], 100)} | | | |")
    print(f"| the encoder's best cell | | {share(area['oracle'])} | | | |\n")

    faithful(vqa, control, test[: given.faithful], names)


def one_question_each(table: pa.Table) -> Iterator[tuple[str, str]]:
    """(image, question): the first question of every image."""
    seen = set()
    for image, question in zip(
        table["image"].to_pylist(), table["question"].to_pylist(), strict=True
    ):
        if image not in seen:
            seen.add(image)
            yield image, question


def shape(image: str | Path) -> np.ndarray:
    """(H, W) bool: the pixels of the shape of an easy-VQA image."""
    pixels = np.asarray(Image.open(image).convert("RGB"))
    return (pixels != pixels[0, 0]).any(-1)


def overlap(boxes: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(P,): the share of each box that lies on the mask."""
    corners = boxes.round().astype(int)
    return np.array([mask[y0:y1, x0:x1].mean() for x0, y0, x1, y1 in corners])


def pointing(explanation: Explanation, mask: np.ndarray) -> tuple[bool, float]:
    """Whether the map's peak lies on the mask, and the share of its magnitude there."""
    x, y = explanation.peak
    magnitude = np.abs(explanation.patches)
    inside = (magnitude * overlap(explanation.boxes, mask)).sum()
    return bool(mask[int(y), int(x)]), float(inside / max(magnitude.sum(), 1e-12))


def point(models: dict[str, VQA], rows: list[tuple[str, str]], names: list[str]) -> Values:
    """The pointing game; models are told apart by what is added to the values' names."""
    values: Values = defaultdict(lambda: defaultdict(list))
    for image, question in track(rows, "pointing", transient=True):
        mask = shape(image)
        answer = None
        for label, vqa in models.items():
            case = make_case(vqa.model, image, question, answer)
            answer = case.answer  # random weights explain the trained model's answer
            boxes = case.in_photo(case.cells().boxes).numpy()
            for name in names:
                explanation = explain_case(case, METHODS[name](), per_word=False)
                peak, mass = pointing(explanation, mask)
                values[name][f"peak{label}"].append(peak)
                values[name][f"mass{label}"].append(mass)
        x0, y0, x1, y1 = boxes[overlap(boxes, mask).argmax()]
        values["area"]["oracle"].append(mask[int((y0 + y1) / 2), int((x0 + x1) / 2)])
        values["area"]["area"].append(mask.mean())
    return values


def faithful(vqa: VQA, control: VQA, rows: list[tuple[str, str]], names: list[str]) -> None:
    """Deletion and insertion, sanity and time: two tables."""
    order = np.random.default_rng(0)
    patches: dict[str, list[Faithfulness]] = defaultdict(list)
    words: dict[str, list[Faithfulness]] = defaultdict(list)
    sanity: Values = defaultdict(lambda: defaultdict(list))
    seconds = defaultdict(list)
    for image, question in track(rows, "faithfulness", transient=True):
        mask = shape(image)
        case = make_case(vqa.model, image, question)
        other = make_case(control.model, image, question, case.answer)
        for name in names:
            found = explain_case(case, METHODS[name](), per_word=False)
            patches[name].append(patch_faithfulness(case, found))
            words[name].append(word_faithfulness(case, found))
            randomly = explain_case(other, METHODS[name](), per_word=False)
            for part in ("patches", "word_relevance"):
                a, b = (np.abs(getattr(e, part)) for e in (found, randomly))
                sanity[name][part].append(rank_correlation(a, b))
            touching = overlap(found.boxes, mask) > 0
            a, b = (np.abs(e.patches[touching]) for e in (found, randomly))
            sanity[name]["shape"].append(rank_correlation(a, b) if len(a) > 2 else float("nan"))
            clock, processor = perf_counter(), process_time()
            vqa.answer(image, question)
            explain(vqa, image, question, METHODS[name]())
            seconds[name].append((perf_counter() - clock, process_time() - processor))
            shuffled = vars(found) | {
                part: order.permutation(getattr(found, part))
                for part in ("patches", "word_relevance")
            }
            mixed = Explanation(**shuffled)
            patches[f"{name}, random order"].append(patch_faithfulness(case, mixed))
            words[f"{name}, random order"].append(word_faithfulness(case, mixed))
    for title, measured in (("cells", patches), ("words", words)):
        print(f"Evidence when {title} are taken away, {len(rows)} test images.\n")
        print("| order | deletion area | insertion area | comprehensiveness | sufficiency |")
        print("|---|---:|---:|---:|---:|")
        for name, results in measured.items():
            columns = zip(*(result[3:] for result in results), strict=True)
            print(f"| {name} | {' | '.join(average(column) for column in columns)} |")
        print()
    print("| method | sanity: cells | on the shape | words | verdict | ms | CPU ms |")
    print("|---|---:|---:|---:|---|---:|---:|")
    for name in names:
        cells = np.nanmean(sanity[name]["patches"])
        clock, processor = (1000 * median(column) for column in zip(*seconds[name], strict=True))
        verdict = "**does not change**" if cells > UNCHANGED else "changes"
        print(
            f"| {name} | {average(sanity[name]['patches'])} | {average(sanity[name]['shape'])} | "
            f"{average(sanity[name]['word_relevance'])} | {verdict} | "
            f"{clock:.0f} | {processor:.0f} |"
        )


def share(values: list[float]) -> str:
    """A share in % with Wilson's interval."""
    n, p, z = len(values), float(np.mean(values)), 1.96
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    low, high = max(middle - half, 0), min(middle + half, 1)
    return f"{100 * p:.1f} ({100 * low:.1f} - {100 * high:.1f})"


def average(values: list[float], scale: float = 1.0) -> str:
    """A mean with its interval; what is not defined is left out."""
    known = scale * np.array([v for v in values if not np.isnan(v)])
    if not len(known):
        return "not defined"
    half = 1.96 * known.std(ddof=1) / np.sqrt(len(known)) if len(known) > 1 else float("nan")
    return f"{known.mean():.2f} ± {half:.2f}"


if __name__ == "__main__":
    main()
