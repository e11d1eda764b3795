"""What a `Subject` does with other wordings and with worse images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from vlm.data.images.store import ImageStore
from vlm.datasets.several import most_images
from vlm.datasets.table import CONTRADICTION, RELATIONS, clusters, with_column
from vlm.metrics import bootstrap_interval
from vlm.trust.perturb import (
    CORRUPTIONS,
    SEVERITIES,
    WORDINGS,
    Changed,
    corrupted,
    mirrored_text,
)
from vlm.trust.sections import Found, between, ends, percent
from vlm.trust.selective import Floats
from vlm.trust.subject import Subject, Unavailable


def consistency(subject: Subject) -> Found:
    """How often another wording of the same question changes the answer."""
    if subject.vqa is None and not subject.results.table["pair"].is_valid().to_numpy().any():
        raise Unavailable(
            "needs the model, and this report is of a file of answers to questions without pairs"
        )
    rows, shown = [], [["wording", "n", "answer changes %", "95 % interval", "accuracy % before"]]
    shown[0] += ["after", "both right %"]
    reworded = [] if subject.vqa is None else [*_reworded(subject)]
    paired = [*_paired(subject)]
    for name, flips, before, after, images in (*reworded, *paired):
        interval = bootstrap_interval(flips, images.tolist())
        both = float(np.minimum(before, after).mean())
        accuracies = [float(before.mean()), float(after.mean())]
        row = {"wording": name, "questions": len(flips), "flips": float(flips.mean())}
        rows.append(row | ends(interval) | {"accuracy": accuracies, "both": both})
        cells = [percent(float(flips.mean())), between(interval), *map(percent, accuracies)]
        shown.append([name, f"{len(flips):,}", *cells, percent(both)])
    text = []
    if reworded:
        text.append(
            f"{int(subject.sample.sum()):,} questions, a sample of whole images, are asked again "
            "with changes that do not alter the meaning for a reader. n counts the questions whose "
            "text changes. Each typo is one mistake inside a word of four letters or more. All of "
            "them are asked about the mirrored image too; left and right (also in German and "
            "Spanish) are exchanged where a question or an answer names them, which may make "
            "questions of a kind that training never has."
        )
    if paired:
        text.append(
            "The last rows are of all rewordings that come with the set. Paraphrases and "
            "equivalent questions have the same right answer. Contradictions have the opposite "
            "one: the answer should change in 100 %, and where it does not, the model contradicts "
            "itself."
        )
    text.append("Both right is the mean of the lower of the two scores.")
    return {"text": text, "table": shown, "numbers": rows}


Rewording = tuple[str, Floats, Floats, Floats, np.ndarray]
"""Its name, and of each question whether the answer changes, the scores before and after, and the
image."""


def _reworded(subject: Subject) -> Iterator[Rewording]:
    """The wordings that are made here, and the mirrored image, of a sample."""
    table, first = subject.sampled, subject.sample
    before = np.array(subject.results.answers, dtype=object)[first]
    right, images = subject.scores[first], clusters(table)
    questions = table["question"].to_pylist()
    for name, change in WORDINGS.items():
        other = [change(question) for question in questions]
        changed = np.array([a != b for a, b in zip(questions, other, strict=True)])
        if not changed.any():
            continue
        asked = subject.ask(with_column(table, "question", pa.array(other, pa.string())))
        flips = (np.array(asked.answers, dtype=object) != before)[changed].astype(float)
        after = subject.scored(table, asked)[changed]
        yield name, flips, right[changed], after, images[changed]
    # A mirror would leave the left one of several images where it is.
    if isinstance(subject.images_store, ImageStore) and most_images(table["image"]) == 1:
        other = table
        for name in ("answers", *(["choices"] if subject.results.takes_choices else [])):
            texts = [[*map(mirrored_text, given)] for given in table[name].to_pylist()]
            other = with_column(other, name, pa.array(texts, pa.list_(pa.string())))
        mirrored = pa.array(map(mirrored_text, questions), pa.string())
        other = with_column(other, "question", mirrored)
        columns = ["question", "answers"]
        pairs = zip(*(t.select(columns).to_pylist() for t in (table, other)), strict=True)
        named = np.array([one != changed for one, changed in pairs])
        asked = subject.ask(other, Changed(subject.images_store, lambda found: found.flip(-1)))
        same = np.array([*map(mirrored_text, asked.answers)], dtype=object)
        flips, after = (same != before).astype(float), subject.scored(other, asked)
        for name, rows in (
            ("mirrored image, no side named", ~named),
            ("mirrored image, left and right exchanged", named),
        ):
            if rows.any():
                yield name, flips[rows], right[rows], after[rows], images[rows]


def _paired(subject: Subject) -> Iterator[Rewording]:
    """The rewordings that come with the set (`pair`)."""
    table, scores = subject.results.table, subject.scores
    relations = np.array(table["relation"].to_pylist(), dtype=object)
    answers = np.array(subject.results.answers, dtype=object)
    place = {key: row for row, key in enumerate(table["id"].to_pylist())}
    pairs, images = table["pair"].to_pylist(), np.asarray(subject.clusters)
    for relation in RELATIONS:
        rows = np.flatnonzero(relations == relation)
        if not len(rows):
            continue
        own = np.array([place[pairs[row]] for row in rows])
        name = f"{relation}, which should change it" if relation == CONTRADICTION else relation
        flips = (answers[rows] != answers[own]).astype(float)
        yield name, flips, scores[own], scores[rows], images[rows]


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
            asked = subject.ask(table, corrupted(store, kind, severity))
            scores = subject.scored(table, asked)
            interval = bootstrap_interval(scores, clusters(table).tolist())
            cells.append(f"{percent(float(scores.mean()))} ({between(interval)})")
            numbers[kind][severity] = {"accuracy": float(scores.mean())} | ends(interval)
        means = [found["accuracy"] for found in numbers[kind].values()]
        relative = float(np.mean(means)) / clean if clean else float("nan")
        shown.append([kind, f"{len(table):,}", *cells, f"{relative:.3f}"])
    text = [
        f"Accuracy on a sample of {len(table):,} questions, {percent(clean)} % on clean images. "
        "Images are corrupted in the size in which the model gets them. A crop may cut off what a "
        "question is about. Mean / clean is the mean accuracy over the severities, divided by the "
        "accuracy on clean images. Brackets show 95 % intervals."
    ]
    return {"text": text, "table": shown, "numbers": numbers}
