"""Whether a model sees objects that are not there, and whether it looks at those that are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from vlm.core.terminal import track
from vlm.data.images.store import ImageStore, open_image
from vlm.datasets.presence import Boxes, Name, Presence
from vlm.datasets.several import most_images
from vlm.datasets.table import clusters, question_table
from vlm.evaluation.significance import estimate
from vlm.explain.case import NeverEnded
from vlm.explain.explainer import explain_case, explained, make_case
from vlm.explain.faithfulness import patch_faithfulness
from vlm.explain.methods import Occlusion
from vlm.heads.generation.head import CUT
from vlm.metrics import bootstrap_interval, per_answer
from vlm.trust.sections import Found, between, ends, percent
from vlm.trust.subject import Subject, Unavailable

IMAGES = 500
"""Images whose objects are asked about."""
EXPLAINED = 500
"""Questions, and images of the pointing game, whose explanations are tested."""
EACH = 3
"""Objects of each kind that an image is asked about, if there are as many."""
NEGATIVES = ("random", "popular", "adversarial")


def hallucination(subject: Subject) -> Found:
    """POPE (Li et al. 2023, arXiv 2305.10355, section 5.1): yes/no questions on objects that are
    in an image, and on objects that are not."""
    known, objects = _objects(subject)
    table = question_table(_questions(known, objects), "object presence")
    asked = subject.ask(table)
    answers = np.array([_word(known, answer) for answer in asked.answers], dtype=object)
    expected = np.array([given for (given,) in table["answers"].to_pylist()], dtype=object)
    kinds = np.array(table["answer_type"].to_pylist(), dtype=object)
    right, images = (answers == expected).astype(float), clusters(table)
    shown = [["objects that are not there", "n", "accuracy %", "95 % interval", "precision %"]]
    shown[0] += ["recall %", "F1 %", f'"{known.yes}" %']
    numbers = {}
    for kind in NEGATIVES:
        rows = np.isin(kinds, ("there", kind))
        accuracy = float(right[rows].mean())
        bounds = bootstrap_interval(right[rows], images[rows].tolist())
        of_yes = per_answer(answers[rows].tolist(), expected[rows].tolist())[known.yes]
        said = float((answers[rows] == known.yes).mean())
        rates = (of_yes.precision, of_yes.recall, of_yes.f1, said)
        shown.append([kind, f"{rows.sum():,}", percent(accuracy), between(bounds)])
        shown[-1] += map(percent, rates)
        names = ("precision", "recall", "f1", "yes")
        numbers[kind] = {"questions": int(rows.sum()), "accuracy": accuracy} | ends(bounds)
        numbers[kind] |= dict(zip(names, rates, strict=True))
    text = [
        f'The model is asked "{known.question}" about objects of {len(objects):,} images, {EACH} '
        f"that are there and {EACH} that are not, after POPE (Li et al. 2023). Absent objects are "
        "drawn at random, are the most frequent ones (popular), or are those that most often "
        "occur together with the image's objects (adversarial). Precision, recall and F1 are those "
        f'of "{known.yes}"; a model that sees what is not there has a low precision. The share of '
        f'"{known.yes}" would be 50 % if every answer were right and there were as many objects of '
        "both kinds."
    ]
    return {"text": text, "table": shown, "numbers": numbers}


def grounding(subject: Subject) -> Found:
    """Whether explanations name what the answers rest on, compared with random ones."""
    store, model = subject.images_store, explained(subject.model)
    if not isinstance(store, ImageStore):
        raise Unavailable("needs images, and this model reads features of regions")
    table = subject.results.table
    if most_images(table["image"]) > 1:
        raise Unavailable("needs questions about one image each, as explanations do")
    rng = np.random.default_rng(0)
    rows = np.sort(rng.permutation(len(table))[:EXPLAINED])
    answers = subject.results.answers
    if subject.results.writes_text:  # an answer that was cut has no explanation
        rows = np.array([row for row in rows if not answers[row].endswith(CUT)], dtype=int)
    if not len(rows):
        raise Unavailable("needs answers that end, and all of these were cut")
    losses: dict[str, list[float]] = {"deletion": [], "insertion": []}
    for row in track(table.take(rows).to_pylist(), "Explaining answers"):
        image = open_image(row["image"], store.source)
        choices = row["choices"] if subject.results.takes_choices else None
        case = make_case(model, image, row["question"], choices=choices)
        found = explain_case(case, Occlusion(), per_word=False)
        own = patch_faithfulness(case, found)
        chance = patch_faithfulness(case, replace(found, patches=rng.permutation(found.patches)))
        losses["deletion"].append(chance.deletion_area - own.deletion_area)
        losses["insertion"].append(own.insertion_area - chance.insertion_area)
    images = np.asarray(subject.clusters)[rows].tolist()
    shown = [["measure", "n", "value", "95 % interval"]]
    numbers: dict[str, Any] = {}
    for name, values in losses.items():
        gap = estimate(np.array([values]), images)
        cells = [f"{gap.mean:.3f}", f"{gap.low:.3f} to {gap.high:.3f}"]
        shown.append([f"{name}, better than a random order by, evidence", f"{len(rows):,}", *cells])
        numbers[name] = gap._asdict()
    text = [
        f"Occlusion explains the answers to {len(rows):,} questions (seed 0; answers that never "
        "ended are left out). Then the image's cells are hidden (deletion) or revealed "
        "(insertion) in the order of their relevance, and in a random order. Evidence is the "
        "head's logit or log-likelihood, averaged over the curve. A value above 0 means that the "
        "explanation names what the answer rests on."
    ]
    try:
        pointed, numbers["pointing"] = point(subject)
        shown += pointed
        text.append(
            f"In the pointing game, up to {EXPLAINED} images are asked about an object that they "
            "show. Where the model says that it is there, the explanation points at it if the "
            "middle of its most relevant cell lies in the object's box; there is no tolerance."
        )
    except Unavailable as reason:
        text.append(f"There is no pointing game: it {reason}.")
    return {"text": text, "table": shown, "numbers": numbers}


def point(subject: Subject) -> tuple[list[list[str]], dict[str, Any]]:
    """The pointing game (Zhang et al. 2018, arXiv 1608.00507) on objects that the model says are
    there: does the explanation's peak lie in a box of the object?

    Args:
        subject: what is measured.

    Returns:
        Rows of a table, and numbers.

    Raises:
        Unavailable: there are no boxes, or the model sees none of the objects.
    """
    known, objects = _objects(subject, EXPLAINED)
    store, model = subject.images_store, explained(subject.model)
    if not isinstance(store, ImageStore):
        raise Unavailable("needs images, and this model reads features of regions")
    rng = np.random.default_rng(0)
    hits, chance, best = [], [], []
    for image, found in track(objects.items(), "Explaining where objects are"):
        name = sorted(found)[int(rng.integers(len(found)))]
        choices = [known.yes, known.no] if subject.results.takes_choices else None
        question = known.question.format(*name)
        try:
            case = make_case(model, open_image(image, store.source), question, choices=choices)
        except NeverEnded:
            continue
        if _word(known, case.answer) != known.yes:
            continue
        why = explain_case(case, Occlusion(), per_word=False)
        size, boxes = np.array(why.image_size), np.array(found[name])
        middles = (why.boxes[:, :2] + why.boxes[:, 2:]) / 2 / size
        hits.append(_inside(np.array([why.peak]) / size, boxes)[0])
        chance.append(_inside(middles, boxes).mean())
        best.append(_inside(middles, boxes).any())
    if not hits:
        raise Unavailable(f'needs an object that the model sees, and it never says "{known.yes}"')
    own, expected = np.array(hits, dtype=float), np.array(chance)
    gap = estimate((own - expected)[None], range(len(own)))
    n, bounds = f"{len(own):,}", bootstrap_interval(own)
    table = [
        ["explanation's peak on the object, %", n, percent(float(own.mean())), between(bounds)],
        ["... more than a random cell, points", n, percent(gap.mean), between((gap.low, gap.high))],
        ["... at best, as the middle of a cell has to lie in the box, %", n],
    ]
    table[-1] += [percent(float(np.mean(best))), ""]
    numbers = {"hits": float(own.mean()), "low": bounds.low, "high": bounds.high}
    numbers |= {"chance": float(expected.mean()), "best": float(np.mean(best))}
    return table, numbers | {"gap": gap._asdict()}


def _objects(
    subject: Subject, most: int = IMAGES
) -> tuple[Presence, dict[str, Mapping[Name, Boxes]]]:
    """How a set asks for objects, and those of a sample of images that have some."""
    known = subject.data.dataset.presence(subject.split)
    if known is None:
        raise Unavailable(f"needs the objects of the {subject.split} images, which nothing lists")
    vocabulary = subject.vocabulary
    if vocabulary is not None and not {known.yes, known.no} <= set(vocabulary):
        raise Unavailable(f'needs a model that can answer "{known.yes}" and "{known.no}"')
    images = subject.results.table["image"].unique().to_pylist()
    order = np.random.default_rng(0).permutation(len(images))[:most]
    found = {images[place]: known.objects(images[place]) for place in np.sort(order)}
    return known, {image: names for image, names in found.items() if names}


def _word(known: Presence, answer: str) -> str:
    """The yes or no of an answer, whatever its case and full stop: models that write differ."""
    plain = answer.strip().removesuffix(".").lower()
    return next((word for word in (known.yes, known.no) if word.lower() == plain), answer)


def _questions(known: Presence, objects: Mapping[str, Mapping[Name, Boxes]]) -> Any:
    """Rows of a question table; `answer_type` is "there" or one of `NEGATIVES`."""
    rng = np.random.default_rng(0)
    frequency = Counter(name for found in objects.values() for name in found)
    names = sorted(frequency)
    place = {name: number for number, name in enumerate(names)}
    shown = np.zeros((len(objects), len(names)))
    for row, found in enumerate(objects.values()):
        shown[row, [place[name] for name in found]] = 1
    together = shown.T @ shown
    for row, (image, found) in enumerate(objects.items()):
        absent = [name for name in names if name not in found]
        there = sorted(found)
        company = together[[place[name] for name in there]].sum(0)
        drawn = [absent[k] for k in rng.permutation(len(absent))]  # equals in random order
        chosen = {
            "there": [there[k] for k in rng.permutation(len(there))],
            "random": drawn,
            "popular": sorted(drawn, key=lambda name: -frequency[name]),
            "adversarial": sorted(drawn, key=lambda name: -company[place[name]]),
        }
        for kind, several in chosen.items():
            for number, name in enumerate(several[:EACH]):
                yield {
                    "id": f"{row}-{kind}-{number}",
                    "image": image,
                    "question": known.question.format(*name),
                    "answers": [known.yes if kind == "there" else known.no],
                    "choices": [known.yes, known.no],
                    "answer_type": kind,
                }


def _inside(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Which points (P, 2) lie in one of the boxes (N, 4)."""
    x, y = points[:, 0, None], points[:, 1, None]
    x0, y0, x1, y1 = boxes.T
    return ((x0 <= x) & (x < x1) & (y0 <= y) & (y < y1)).any(1)
