"""What a `Subject` does where the image or the answer is missing, and what it has forgotten."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vlm.data.ablations import BlankImages
from vlm.data.images.store import ImageStore
from vlm.datasets import Scenes, SortOfCLEVR
from vlm.datasets.table import image_groups, with_column
from vlm.evaluation.significance import estimate
from vlm.metrics import bootstrap_interval, normalize_answer
from vlm.trust import selective
from vlm.trust.asking import most_given
from vlm.trust.sections import (
    LEAST,
    NOT_MEASURABLE,
    Found,
    between,
    coverage_at,
    ends,
    percent,
    risk_at,
)
from vlm.trust.selective import RISKS, Floats, cluster_bootstrap
from vlm.trust.subject import Subject, Unavailable

MIXED = (0.1, 0.33, 0.5, 0.67, 0.9)
"""Shares of questions about the wrong image."""
KEPT = {
    "same_class": "images of the same class",
    "neighbours_kept": "neighbours of words kept",
    "similarity_kept": "similarity of sentences kept",
    "cka": "CKA, last layer",
}
"""What is shown of an encoder's results by `vlm forgetting`."""


def language_bias(subject: Subject) -> Found:
    """What is left of the accuracy without the image, and where the question misleads."""
    table, images = subject.results.table, subject.clusters
    guessed = np.asarray(subject.floors.question_only)
    rows = {"with its image": subject.scores}
    if subject.vqa is not None:
        blank = BlankImages(subject.vqa.transform)
        rows["with another image"] = subject.scored(table, subject.shuffled)
        rows["with a grey image"] = subject.scored(table, subject.ask(table, blank))
    rows["most frequent training answer"] = np.asarray(subject.floors.majority)
    rows["most frequent to the same question"] = guessed
    shown = [["answered", "n", "accuracy %", "95 % interval", "its image, minus this row", "95 % "]]
    shown[0][-1] = "95 % interval"
    numbers: dict[str, Any] = {}
    for name, scores in rows.items():
        interval = bootstrap_interval(scores, images)
        gap = estimate((subject.scores - scores)[None], images)
        cells = [percent(gap.mean), between((gap.low, gap.high))]
        cells = cells if name != "with its image" else ["", ""]
        shown.append(
            [name, f"{len(scores):,}", percent(float(scores.mean())), between(interval), *cells]
        )
        numbers[name] = {"accuracy": float(scores.mean()), "gap": gap.mean} | ends(interval)
    easy = guessed >= 0.5
    for name, chosen in (("that guess is right", easy), ("that guess is wrong", ~easy)):
        if (n := int(chosen.sum())) < LEAST:
            shown.append([f"with its image, {name}", f"{n:,}", NOT_MEASURABLE, "", "", ""])
            continue
        scores = subject.scores[chosen]
        interval = bootstrap_interval(scores, np.asarray(images)[chosen].tolist())
        cells = [f"{n:,}", percent(float(scores.mean())), between(interval), "", ""]
        shown.append([f"with its image, {name}", *cells])
        numbers[name] = {"questions": n, "accuracy": float(scores.mean())} | ends(interval)
    text = [
        "The accuracy of a model that uses the image falls to the floors, or below, where the "
        "image is another one of the split, or grey; that of a model that guesses from the "
        "question stays the same. Differences are paired by question. The last two rows divide the "
        "questions by whether the most frequent training answer to the same question scores at "
        "least one half. Where that guess is wrong, the questions are counterexamples to the prior "
        "(in the spirit of Dancette et al. 2021, VQA-CE, whose rules are mined): a model that "
        "guesses fails there."
    ]
    if subject.vqa is None:
        text.append("A file of answers has none for other images.")
    return {"text": text, "table": shown, "numbers": numbers}


def off_distribution(subject: Subject) -> Found:
    """Selective answering where some questions are about an image of which they are not."""
    p, scores = subject.probability, subject.scores
    order = np.random.default_rng(0).permutation(len(p))
    known = subject.model.calibration
    held = [t for t in known.thresholds if t.probability is not None] if known else []
    shown = [["wrong images %", "from", "n", *(f"C@{100 * r:g} %, %" for r in RISKS)]]
    shown[0] += ["AUROC of the error", "95 % interval"]
    shown[0] += [f"risk at the threshold for {100 * t.risk:g} %, %" for t in held]
    wrong = {"this set": subject.shuffled.probability}
    if isinstance(subject.images_store, ImageStore):
        other = SortOfCLEVR() if isinstance(subject.data.dataset, Scenes) else Scenes(scenes=400)
        wrong[type(other).__name__] = subject.ask(
            _about(subject.results.table, other.table("test")),
            ImageStore(subject.images_store.transform),
        ).probability
    numbers = []
    for source, share in ((s, x) for s in wrong for x in (0.0, *MIXED) if x or s == "this set"):
        replaced = np.zeros(len(p), dtype=bool)
        replaced[order[: round(share * len(p))]] = True
        mixed, right = np.where(replaced, wrong[source], p), np.where(replaced, 0.0, scores)

        def statistic(rows: np.ndarray, s: Floats = right, q: Floats = mixed) -> float:
            return selective.auroc_of_error(s[rows], q[rows])

        area, bounds = (
            selective.auroc_of_error(right, mixed),
            cluster_bootstrap(statistic, subject.clusters, 200),
        )
        covered = [coverage_at(subject, r)(right, mixed) for r in RISKS]
        risks = [risk_at(right, mixed, t.probability or 0.0) for t in held]
        cells = [*map(percent, covered), percent(area), between(bounds), *map(percent, risks)]
        shown.append([percent(share, 0), source if share else "", f"{len(p):,}", *cells])
        row = {"share": share, "from": source, "coverage": covered, "auroc": area}
        numbers.append(row | {"risks": risks})
    text = [
        "The first column is the share of questions that are asked about another image, where "
        "every answer counts as wrong (after Dancette et al. 2023, LYP): an image of this split, "
        "or one of another, generated set. The threshold of C@R is chosen on the mixture itself. "
        "AUROC is the chance, in %, that a right answer has a higher confidence than a wrong one; "
        "50 is chance. Where each question suits every image of a set, as in easy-VQA, no "
        "confidence can tell its images apart. The certified thresholds promise nothing here; "
        "their risks show what a change of distribution costs."
    ]
    return {"text": text, "table": shown, "numbers": numbers}


def _about(table: pa.Table, other: pa.Table) -> pa.Table:
    """The questions about images of another set, those about one image about one."""
    images = other["image"].unique().to_pylist()
    paths = [images[group % len(images)] for group in image_groups(table).tolist()]
    return with_column(table, "image", pa.array(paths, pa.string()))


def unanswerable(subject: Subject) -> Found:
    """Whether questions without an answer are found, by saying so and by the confidence."""
    nothing = subject.data.dataset.unanswerable
    given = subject.results.table["answers"].to_pylist()
    without = np.array([most_given(answers) == nothing for answers in given])
    if nothing is None or not without.any():
        raise Unavailable("needs questions that have no answer, and this split has none")
    # As the sets' own metrics do: "Unanswerable." is said, too.
    plain = normalize_answer(nothing)
    said = np.array([normalize_answer(answer) == plain for answer in subject.results.answers])
    images = np.asarray(subject.clusters)
    rows: list[tuple[str, np.ndarray, Floats]] = [
        (f'without an answer: says "{nothing}"', without, said.astype(float)),
        ("with an answer: accuracy", ~without, subject.scores),
        (f'with an answer: says "{nothing}"', ~without, said.astype(float)),
        (f'says "{nothing}": there is none', said, without.astype(float)),
    ]
    shown, numbers = [["questions", "n", "%", "95 % interval"]], {}
    for name, chosen, values in rows:
        n = int(chosen.sum())
        if n < LEAST:
            shown.append([name, f"{n:,}", NOT_MEASURABLE, ""])
            continue
        interval = bootstrap_interval(values[chosen], images[chosen].tolist())
        share = float(values[chosen].mean())
        shown.append([name, f"{n:,}", percent(share), between(interval)])
        numbers[name] = {"questions": n, "share": share} | ends(interval)
    text = [
        f'Questions whose right answer is "{nothing}", the one that most annotators gave: '
        f"{int(without.sum()):,} of {len(without):,}."
    ]
    try:
        p = subject.probability
    except Unavailable as reason:
        text.append(f"The confidence is not measured: this {reason}.")
        return {"text": text, "table": shown, "numbers": numbers}
    answerable = 1.0 - without

    def statistic(sampled: Any) -> float:
        return selective.auroc_of_error(answerable[sampled], p[sampled])

    area, bounds = statistic(slice(None)), cluster_bootstrap(statistic, images.tolist(), 200)
    shown.append(["AUROC of the confidence", f"{len(p):,}", percent(area), between(bounds)])
    numbers["auroc"] = {"value": area} | ends(bounds)
    text.append(
        "AUROC is the chance that a question with an answer gets a higher confidence than one "
        "without, 50 % by chance. It matters for a model that cannot say that there is no answer; "
        "one that can is rightly confident in saying so."
    )
    return {"text": text, "table": shown, "numbers": numbers}


def forgetting(subject: Subject) -> Found:
    """What `vlm forgetting` found of a run, from its results in the run's folder."""
    path = Path(subject.name) / "forgetting/results.json"
    if subject.vqa is None or not path.is_file():
        raise Unavailable(
            "needs what an encoder was before it was fine-tuned; of a run that began with "
            "pretrained weights, `vlm forgetting RUN --output RUN/forgetting` measures it"
        )
    states: list[dict[str, Any]] = json.loads(path.read_text())["states"]
    own = next(state for state in states if state["alpha"] == 1)
    table, numbers = [["measure", "kept"]], dict[str, Any]()
    for part in ("image_encoder", "text_encoder"):
        found = own.get(part, {})
        values = {name: found.get(name) for name in KEPT if found.get(name) is not None}
        if found:
            values["cka"] = [*found["cka"].values()][-1]
        for name, value in values.items():
            shown = "not measurable" if value is None else f"{value:.3f}"
            table.append([f"{part.replace('_', ' ')}: {KEPT[name]}", shown])
        numbers |= {f"{part} {name}": value for name, value in values.items()}
    text = [
        "From forgetting/report.html in the run's folder, which has intervals and the numbers of "
        "images and texts. 1 is what the original encoder has."
    ]
    return {"text": text, "table": table, "numbers": numbers}
