"""What a `Subject` does with other wordings, worse images, wrong images, and why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from vlm.data.images.store import ImageStore, open_image
from vlm.datasets.table import image_groups, with_column
from vlm.evaluation.significance import estimate
from vlm.explain.explainer import explain_case, make_case
from vlm.explain.faithfulness import patch_faithfulness
from vlm.explain.methods import Occlusion
from vlm.metrics import bootstrap_interval
from vlm.trust import selective
from vlm.trust.perturb import CORRUPTIONS, SEVERITIES, WORDINGS, Corrupted
from vlm.trust.sections import Found, between, coverage_at, percent, risk_at
from vlm.trust.selective import RISKS, Floats, image_bootstrap
from vlm.trust.subject import Subject, Unavailable

EXPLAINED = 500
"""Questions whose explanations are tested."""
MIXED = (0.1, 0.33, 0.5, 0.67, 0.9)
"""Shares of questions about the wrong image."""


def consistency(subject: Subject) -> Found:
    """How often another wording of the same question changes the answer."""
    table, first = subject.sampled, subject.sample
    before = np.array(subject.results.answers, dtype=object)[first]
    right = subject.scores[first]
    images = image_groups(table)
    questions = table["question"].to_pylist()
    rows, shown = [], [["wording", "n", "answer changes %", "95 % interval", "accuracy % before"]]
    shown[0].append("after")
    for name, change in WORDINGS.items():
        other = [change(question) for question in questions]
        changed = np.array([a != b for a, b in zip(questions, other, strict=True)])
        if not changed.any():
            continue
        asked = subject.ask(with_column(table, "question", pa.array(other, pa.string())))
        flips = (np.array(asked.answers, dtype=object) != before)[changed].astype(float)
        interval = bootstrap_interval(flips, images[changed].tolist())
        after = subject.scored(table, asked)[changed]
        accuracies = [float(right[changed].mean()), float(after.mean())]
        row = {"wording": name, "questions": int(changed.sum()), "flips": float(flips.mean())}
        rows.append(row | interval._asdict() | {"accuracy": accuracies})
        cells = [percent(float(flips.mean())), between(interval), *map(percent, accuracies)]
        shown.append([name, f"{changed.sum():,}", *cells])
    text = [
        f"{len(table):,} questions, a sample of whole images, are asked again with changes that do "
        "not alter the meaning for a reader. n counts the questions whose text changes. Each typo "
        "is one mistake inside a word of four letters or more."
    ]
    return {"text": text, "table": shown, "numbers": rows}


def corruptions(subject: Subject) -> Found:
    """Accuracy on corrupted images, by kind and severity."""
    store = subject.images_store
    if not isinstance(store, ImageStore):
        raise Unavailable("needs images, and this model reads features of regions")
    table, clean = subject.sampled, float(subject.scores[subject.sample].mean())
    shown = [["corruption", "n", *(f"severity {s}, %" for s in SEVERITIES), "mean / clean"]]
    numbers: dict[str, Any] = {"clean": clean}
    for kind in CORRUPTIONS:
        cells, numbers[kind] = [], {}
        for severity in SEVERITIES:
            asked = subject.ask(table, Corrupted(store, kind, severity))
            scores = subject.scored(table, asked)
            interval = bootstrap_interval(scores, image_groups(table).tolist())
            cells.append(f"{percent(float(scores.mean()))} ({between(interval)})")
            numbers[kind][severity] = {"accuracy": float(scores.mean())} | interval._asdict()
        means = [found["accuracy"] for found in numbers[kind].values()]
        relative = float(np.mean(means)) / clean if clean else float("nan")
        shown.append([kind, f"{len(table):,}", *cells, f"{relative:.3f}"])
    text = [
        f"Accuracy on a sample of {len(table):,} questions, {percent(clean)} % on clean images. "
        "Images are corrupted at the model's input size. Mean / clean is the mean accuracy over "
        "the severities, divided by the accuracy on clean images. Brackets show 95 % intervals."
    ]
    return {"text": text, "table": shown, "numbers": numbers}


def language_bias(subject: Subject) -> Found:
    """What is left of the accuracy without the image."""
    table, images = subject.results.table, subject.images
    rows = {
        "with its image": subject.scores,
        "with another image": subject.scored(table, subject.shuffled),
        "most frequent training answer": np.asarray(subject.floors.majority),
        "most frequent to the same question": np.asarray(subject.floors.question_only),
    }
    shown = [["answered", "n", "accuracy %", "95 % interval", "its image, minus this row", "95 % "]]
    shown[0][-1] = "95 % interval"
    numbers = {}
    for name, scores in rows.items():
        interval = bootstrap_interval(scores, images)
        gap = estimate((subject.scores - scores)[None], images)
        cells = [percent(gap.mean), between((gap.low, gap.high))]
        cells = cells if name != "with its image" else ["", ""]
        shown.append(
            [name, f"{len(scores):,}", percent(float(scores.mean())), between(interval), *cells]
        )
        numbers[name] = {"accuracy": float(scores.mean()), "gap": gap.mean} | interval._asdict()
    text = [
        "Each image is replaced by another one from the split. The accuracy of a model that uses "
        "the image falls to the floors; that of a model that guesses from the question stays the "
        "same. Differences are paired by question."
    ]
    return {"text": text, "table": shown, "numbers": numbers}


def off_distribution(subject: Subject) -> Found:
    """Selective answering where some questions are about another image."""
    p, scores = subject.probability, subject.scores
    wrong = subject.shuffled.probability
    order = np.random.default_rng(0).permutation(len(p))
    known = subject.model.calibration
    held = [t for t in known.thresholds if t.probability is not None] if known else []
    shown = [["wrong images %", "n", *(f"C@{100 * r:g} %, %" for r in RISKS)]]
    shown[0] += ["AUROC of the error", "95 % interval"]
    shown[0] += [f"risk at the threshold for {100 * t.risk:g} %, %" for t in held]
    numbers = []
    for share in (0.0, *MIXED):
        replaced = np.zeros(len(p), dtype=bool)
        replaced[order[: round(share * len(p))]] = True
        mixed, right = np.where(replaced, wrong, p), np.where(replaced, 0.0, scores)

        def statistic(rows: np.ndarray, s: Floats = right, q: Floats = mixed) -> float:
            return selective.auroc_of_error(s[rows], q[rows])

        area, bounds = (
            selective.auroc_of_error(right, mixed),
            image_bootstrap(statistic, subject.images, 200),
        )
        covered = [coverage_at(subject, r)(right, mixed) for r in RISKS]
        risks = [risk_at(right, mixed, t.probability or 0.0) for t in held]
        cells = [*map(percent, covered), percent(area), between(bounds), *map(percent, risks)]
        shown.append([percent(share, 0), f"{len(p):,}", *cells])
        numbers.append({"share": share, "coverage": covered, "auroc": area, "risks": risks})
    text = [
        "The first column is the share of questions that are asked about another image of the "
        "split, where every answer counts as wrong (after Dancette et al. 2023, LYP). The "
        "threshold of C@R is chosen on the mixture itself. AUROC is the chance, in %, that a right "
        "answer has a higher confidence than a wrong one; 50 is chance. Where each question suits "
        "every image, as in easy-VQA, no confidence can do better. The certified thresholds "
        "promise nothing here; their risks show what a change of distribution costs."
    ]
    return {"text": text, "table": shown, "numbers": numbers}


def grounding(subject: Subject) -> Found:
    """Whether explanations name what the answers rest on, compared with random ones."""
    store, model = subject.images_store, subject.model.model
    if not isinstance(store, ImageStore):
        raise Unavailable("needs images, and this model reads features of regions")
    table = subject.results.table
    rng = np.random.default_rng(0)
    rows = np.sort(rng.permutation(len(table))[:EXPLAINED])
    losses: dict[str, list[float]] = {"deletion": [], "insertion": []}
    for row in table.take(rows).to_pylist():
        image = open_image(row["image"], store.source)
        choices = row["choices"] if subject.results.takes_choices else None
        case = make_case(model, image, row["question"], choices=choices)
        found = explain_case(case, Occlusion(), per_word=False)
        own = patch_faithfulness(case, found)
        chance = patch_faithfulness(case, replace(found, patches=rng.permutation(found.patches)))
        losses["deletion"].append(chance.deletion_area - own.deletion_area)
        losses["insertion"].append(own.insertion_area - chance.insertion_area)
        subject.advance(1)
    images = np.asarray(subject.images)[rows].tolist()
    shown = [["better than a random order by", "n", "evidence", "95 % interval"]]
    numbers = {}
    for name, values in losses.items():
        gap = estimate(np.array([values]), images)
        shown.append([name, f"{len(rows):,}", f"{gap.mean:.3f}", f"{gap.low:.3f} - {gap.high:.3f}"])
        numbers[name] = gap._asdict()
    text = [
        f"Occlusion explains the answers to {len(rows):,} questions (seed 0). Then the image's "
        "cells are hidden (deletion) or revealed (insertion) in the order of their relevance, and "
        "in a random order. Evidence is the head's logit or log-likelihood, averaged over the "
        "curve. A value above 0 means that the explanation names what the answer rests on. There "
        "is no pointing game, because it needs object boxes, which this set does not provide."
    ]
    return {"text": text, "table": shown, "numbers": numbers}
