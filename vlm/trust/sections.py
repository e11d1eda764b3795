"""Accuracy, calibration and selective answering of a `Subject`, in words and numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from vlm.datasets.table import stream
from vlm.evaluation.report import Report
from vlm.evaluation.significance import estimate
from vlm.inference import VQA
from vlm.metrics import Interval, bootstrap_interval
from vlm.trust import calibration_error, selective
from vlm.trust.asking import most_given
from vlm.trust.selective import COSTS, RISKS, Floats, cluster_bootstrap, measurable, needed
from vlm.trust.subject import Subject, Unavailable

Found = dict[str, Any]
"""Plain data: "text" (paragraphs), "table" (rows of cells, headings first), "numbers"."""
NOT_MEASURABLE = "not measurable"
LEAST = 30
"""Questions below which a group has no line of its own."""


def percent(value: float, digits: int = 2) -> str:
    """A share as a percentage, without its sign."""
    return NOT_MEASURABLE if np.isnan(value) else f"{100 * value:.{digits}f}"


def ends(interval: Interval | tuple[float, float]) -> dict[str, float]:
    """Both ends of an interval for report.json, whose "about" says what it is over."""
    return {"low": interval[0], "high": interval[1]}


def between(interval: Interval | tuple[float, float], digits: int = 2) -> str:
    """An interval of shares, in percent. One without a width says that the images are too few, or
    too much alike, to tell how much the value may vary."""
    low, high = interval[0], interval[1]
    return f"{percent(low, digits)} to {percent(high, digits)}" if low < high else NOT_MEASURABLE


def accuracy(subject: Subject) -> Found:
    """Accuracy with floors and ceiling, overall and by the type the data set reports by."""
    rows = Report(subject.results, subject.split, subject.floors).rows
    table = [["questions about", "n", "accuracy %", "95 % interval"]]
    table[0] += ["majority %", "question only %", "ceiling %"]
    for row in rows:
        shares = [percent(row[name]) for name in ("majority", "question_only", "ceiling")]
        interval = between((row["low"], row["high"]))
        table.append(
            [row["type"], f"{row['questions']:,}", percent(row["accuracy"]), interval, *shares]
        )
    text = [
        "Majority always gives the most frequent training answer; question only gives the most "
        "frequent training answer to the same question. The ceiling is the highest accuracy that "
        "the model's possible answers allow."
    ]
    return {"text": text, "table": table, "numbers": rows}


def groups(subject: Subject) -> Found:
    """Accuracy of each group, the worst first."""
    keys = {
        "question type": subject.results.keys("question_type"),
        "answer type": subject.results.keys("answer_type"),
        "answer": _frequency(subject),
    }
    if isinstance(subject.vqa, VQA):  # others read any word
        unknown = subject.vqa.model.text_encoder.tokenizer.unknown
        questions = subject.results.table["question"].to_pylist()
        keys["words"] = ["some unknown" if unknown(text) else "all known" for text in questions]
    scores, images = subject.scores, np.asarray(subject.clusters)
    try:
        p: Floats | None = subject.probability
    except Unavailable:
        p = None
    rows: list[dict[str, Any]] = []
    for kind, values in keys.items():
        for value, n in Counter(values).items():
            chosen = np.array([v == value for v in values])
            if n < LEAST or chosen.all():
                continue
            of_group, about = scores[chosen], images[chosen].tolist()
            interval = bootstrap_interval(of_group, about)
            row = {"group": f"{kind}: {value}", "questions": n, "accuracy": of_group.mean()}
            row |= ends(interval)
            if p is not None:
                row["gap"] = estimate((p[chosen] - of_group)[None], about)._asdict()
                row["augrc"] = selective.augrc(of_group, p[chosen])

                def area(sampled: Any, s: Floats = of_group, q: Floats = p[chosen]) -> float:
                    return selective.augrc(s[sampled], q[sampled])

                low, high = cluster_bootstrap(area, about, 200)
                row |= {"augrc_low": low, "augrc_high": high}
            rows.append(row)
    rows.sort(key=lambda row: row["accuracy"])
    table = [["group", "n", "accuracy %", "95 % interval"]]
    if p is not None:
        table[0] += ["mean probability, minus accuracy", "95 % interval"]
        table[0] += ["AUGRC, x 100", "95 % interval"]
    for row in rows:
        cells = [percent(row["accuracy"]), between((row["low"], row["high"]))]
        if p is not None:
            gap = row["gap"]
            cells += [percent(gap["mean"]), between((gap["low"], gap["high"]))]
            cells += [percent(row["augrc"], 3), between((row["augrc_low"], row["augrc_high"]), 3)]
        table.append([row["group"], f"{row['questions']:,}", *cells])
    text = [
        "Head, middle and tail each hold about a third of the training answers, from the most "
        f"frequent to the rarest. Groups of fewer than {LEAST} questions are omitted. The worst of "
        "many groups is partly bad luck: look at its interval. A mean probability above the "
        "accuracy means that the model is too sure of the group."
    ]
    if rows and rows[0]["accuracy"] == rows[-1]["accuracy"]:
        text.insert(0, "All groups have the same accuracy.")
    elif rows:
        text.insert(0, f"Worst group: {rows[0]['group']}, {table[1][2]} %.")
    return {"text": text, "table": table if rows else [], "numbers": rows}


def calibration(subject: Subject) -> Found:
    """Calibration errors, before and after."""
    scores, after = subject.scores, subject.probability
    states = {"as given": after}
    known = subject.vqa.calibration if subject.vqa else None
    if known is not None:
        states = {"before": subject.asked.raw, "after": after}
    measures: dict[str, Callable[[Floats, Floats], float]] = {
        "ECE, bins of equal width": calibration_error.ece,
        "ECE, bins of equal mass": lambda s, p: calibration_error.ece(s, p, binning="mass"),
        "MCE": calibration_error.mce,
        "Brier score": calibration_error.brier,
        "NLL": calibration_error.nll,
    }
    table = [["measure, x 100", "n", *(f"{s}{x}" for s in states for x in ("", ", 95 % interval"))]]
    numbers: dict[str, Any] = {}
    for name, measure in measures.items():
        row, numbers[name] = [name, f"{len(scores):,}"], {}
        for state, p in states.items():
            value = measure(scores, p)
            interval = _interval(subject, measure, p)
            row += [percent(value, 3), between(interval, 3)]
            numbers[name][state] = {"value": value} | ends(interval)
        table.append(row)
    bins = {
        s: [v.tolist() for v in calibration_error.reliability(scores, p)] for s, p in states.items()
    }
    text = [
        "If a model is calibrated, 80 % of the answers given 80 % are right. Over "
        f"{calibration_error.BINS} bins, ECE is the mean distance between probability and "
        "accuracy, and MCE the largest, which may come from one question. The Brier score and NLL "
        "also reward separating right from wrong answers. All are best at 0. ECE and MCE are "
        "biased upwards, most with few questions, and their intervals more still, since a "
        "bootstrap adds the noise again: the value may lie below its interval.",
        f"The probabilities are {known.about}, fitted on the selection part."
        if known
        else "The probabilities were calibrated, as the file says."
        if all(given.calibrated for given in subject.results.predictions.values())
        else "The probabilities are the given ones; vlm did not calibrate them.",
    ]
    return {"text": text, "table": table, "numbers": numbers | {"bins": bins}}


def selective_answering(subject: Subject) -> Found:
    """Coverage at risk, certified thresholds and what they give, areas, effective reliability."""
    scores, p, split = subject.scores, subject.probability, subject.split
    table = [["measure", "n", "value", "95 % interval", "threshold", "threshold from"]]
    numbers: dict[str, Any] = {"curve": _thinned(selective.risk_coverage(scores, p))}
    n = f"{len(scores):,}"
    for risk in RISKS:
        name = f"C@{100 * risk:g} %: coverage at this risk, %"
        found = selective.coverage_at_risk(scores, p, risk)

        def coverage(s: Floats, q: Floats, risk: float = risk) -> float:
            return selective.coverage_at_risk(s, q, risk).coverage

        shown = [percent(found.coverage), between(_interval(subject, coverage, p))]
        shown.append(_least(found.threshold))
        if np.isnan(coverage_at(subject, risk)(scores, p)):
            few = f"{needed(risk, 0.05)} images needed"
            if measurable(len(set(subject.clusters)), risk):
                few = f"{round(found.coverage * len(p))} answered, {needed(risk, 0.05)} needed"
            found = selective.Coverage(float("nan"), float("nan"))
            shown = [NOT_MEASURABLE, few, ""]
        table.append([name, n, *shown, f"{split} itself"])
        numbers[f"coverage_at_{risk:g}"] = found._asdict() | {"threshold_from": split}
    text = [
        f"C@R chooses its threshold on the {split} questions themselves, so it is an optimum in "
        "hindsight. Use it to compare models; it promises nothing."
    ]
    certified = subject.vqa.calibration if subject.vqa else None
    if certified is None:
        text.append(
            "A file of answers and a model without calibration (run `vlm calibrate`) have no "
            "calibration part, so there is no certified threshold, and none was chosen on the "
            f"{split} split."
        )
    else:
        text.append(
            f"Certified thresholds come from {certified.certified_on:,} validation questions about "
            f"{certified.images:,} images. For each threshold by itself, the chance that it "
            f"exceeds its risk is at most {100 * certified.delta:g} %, whichever epoch was chosen, "
            "for questions about images drawn from the same source, where each image counts once. "
            f"The table shows the coverage and risk that they realise on the {split} split, where "
            "each question counts once."
        )
        for t in certified.thresholds:
            name = f"certified for risk {100 * t.risk:g} %"
            if t.probability is None:
                table.append([name, n, t.why, "", "", "calibration part"])
                continue
            for measure, of, value, bounds in _realised(subject, t.probability):
                everything = not t.probability and measure == "coverage"
                cells = [f"{name}: {measure}, %", f"{of:,}", percent(value)]
                cells.append("" if everything else between(bounds))
                table.append([*cells, _least(t.probability), "calibration part"])
                key = f"certified_{t.risk:g}"
                numbers.setdefault(key, {"threshold": t.probability})[measure] = value
    areas = {"AUGRC": selective.augrc, "AURC": selective.aurc, "e-AURC": selective.e_aurc}
    for name, area in areas.items():
        value, bounds = area(scores, p), _interval(subject, area, p)
        cells = [percent(value, 3), between(bounds, 3), "", "none needed"]
        table.append([f"{name}, x 100", n, *cells])
        numbers[name] = {"value": value} | ends(bounds)
    for cost in COSTS if certified is not None else ():
        chosen = selective.best_threshold(*subject.calibration_part, cost)

        def phi(s: Floats, q: Floats, least: float = chosen, cost: int = cost) -> float:
            return selective.effective_reliability(s, q, least, cost)

        bounds = _interval(subject, phi, p)
        part = (
            "calibration part"
            if subject.calibrated_here
            else "half of this data's validation split"
        )
        cells = [percent(phi(scores, p)), between(bounds), _least(chosen), part]
        table.append([f"effective reliability, a wrong answer costing {cost}, x 100", n, *cells])
        numbers[f"phi_{cost}"] = {"value": phi(scores, p), "threshold": chosen}
    text.append(
        "AUGRC is the chance that an answer is wrong and given, averaged over all thresholds; AURC "
        "and e-AURC allow comparison with older tables. Lower is better for all three. Effective "
        "reliability pays a right answer its score, a wrong answer minus its cost, and no answer "
        "0. Higher is better."
    )
    return {"text": text, "table": table, "numbers": numbers}


def prediction_sets(subject: Subject) -> Found:
    """How often sets hold the right answer, and how large they are, by answer type."""
    known = subject.model.calibration
    asked = subject.asked
    if known is None:
        raise Unavailable("needs a calibrated model; run `vlm calibrate`")
    if asked.set_sizes is None or asked.of_right is None or known.set_threshold is None:
        raise Unavailable("needs a list of possible answers, but this head writes free text")
    held = (asked.of_right >= known.set_threshold).astype(float)
    types = np.array(subject.results.keys("answer_type"), dtype=object)
    images = np.asarray(subject.clusters)
    table = [["questions about", "n", "contains right answer %", "95 % interval", "mean size"]]
    rows = []
    for name in ["overall", *sorted(set(types))]:
        chosen = np.ones(len(held), bool) if name == "overall" else types == name
        interval = bootstrap_interval(held[chosen], images[chosen].tolist())
        size = float(asked.set_sizes[chosen].mean())
        row = {"type": name, "questions": int(chosen.sum()), "size": size}
        rows.append(row | {"coverage": float(held[chosen].mean())} | ends(interval))
        cells = [percent(float(held[chosen].mean())), between(interval), f"{size:.2f}"]
        table.append([name, f"{chosen.sum():,}", *cells])
    text = [
        "A prediction set has every answer with a probability of at least "
        f"{100 * known.set_threshold:.2f} %. This threshold comes from the calibration part, so "
        "that 90 % of the sets contain the right answer (the one that most annotators gave), "
        "overall but not in every group. Sets may be empty. Where images have several questions, "
        "the share approaches 90 % as the number of images grows. The share also varies with the "
        "calibration images, which the intervals do not show."
    ]
    if known.set_threshold == 0:
        text.append(
            "These sets hold all that the model can answer, and 90 % is not promised: the "
            "calibration part has too few images, or too many right answers are beyond the model."
        )
    return {"text": text, "table": table, "numbers": rows}


def compare(subject: Subject, other: Subject) -> Found:
    """Paired differences of two subjects on the same questions.

    Raises:
        Unavailable: they did not answer the same questions.
    """
    if list(subject.results.predictions) != list(other.results.predictions):
        raise Unavailable("needs answers to the same questions")
    n, images = f"{len(subject.scores):,}", subject.clusters
    gap = estimate((subject.scores - other.scores)[None], images)
    shown = [["this model minus the other, x 100", "n", "difference", "95 % interval"]]
    shown.append(["accuracy", n, percent(gap.mean), between((gap.low, gap.high))])
    numbers: dict[str, Any] = {"accuracy": gap._asdict()}
    measures: dict[str, Callable[[Floats, Floats], float]] = {
        "ECE": calibration_error.ece,
        "Brier score": calibration_error.brier,
        "AUGRC": selective.augrc,
        **{f"C@{100 * risk:g} %": coverage_at(subject, risk) for risk in RISKS},
    }
    text = [f"Differences to {other.name}, paired by question, with intervals over images."]
    try:
        first, second = (subject.scores, subject.probability), (other.scores, other.probability)
    except Unavailable as reason:
        text.append(f"Probabilities are not compared: this {reason}.")
        measures = {}
    for name, measure in measures.items():

        def difference(rows: Any, measure: Callable[..., float] = measure) -> float:
            ours, theirs = ([column[rows] for column in pair] for pair in (first, second))
            return measure(*ours) - measure(*theirs)

        value, bounds = difference(slice(None)), cluster_bootstrap(difference, images)
        shown.append([name, n, percent(value), between(bounds)])
        numbers[name] = {"value": value} | ends(bounds)
    return {"text": text, "table": shown, "numbers": numbers}


def coverage_at(subject: Subject, risk: float) -> Callable[[Floats, Floats], float]:
    """C@R; NaN where the subject has too few images, or too few questions are answered, to show the
    risk. No question at all is a coverage of 0."""
    if not measurable(len(set(subject.clusters)), risk):
        return lambda scores, p: float("nan")

    def measure(scores: Floats, p: Floats) -> float:
        coverage = selective.coverage_at_risk(scores, p, risk).coverage
        shown = not coverage or measurable(round(coverage * len(p)), risk)
        return coverage if shown else float("nan")

    return measure


def _interval(
    subject: Subject, measure: Callable[[Floats, Floats], float], p: Floats
) -> tuple[float, float]:
    scores = subject.scores
    return cluster_bootstrap(lambda rows: measure(scores[rows], p[rows]), subject.clusters)


def _realised(
    subject: Subject, threshold: float
) -> list[tuple[str, int, float, tuple[float, float]]]:
    """Coverage and risk of a threshold on the split, each with its number of questions."""
    answered = (subject.probability >= threshold).astype(float)
    scores, p = subject.scores, subject.probability
    covered = bootstrap_interval(answered, subject.clusters)[:2]
    given = answered.astype(bool)
    if not given.any():
        nan = float("nan")
        return [("coverage", len(p), 0.0, covered), ("risk realised", 0, nan, (nan, nan))]
    images = np.asarray(subject.clusters)[given].tolist()
    risk = bootstrap_interval(1 - scores[given], images)[:2]
    return [
        ("coverage", len(p), float(answered.mean()), covered),
        ("risk realised", int(given.sum()), risk_at(scores, p, threshold), risk),
    ]


def risk_at(scores: Floats, p: Floats, threshold: float) -> float:
    answered = p >= threshold
    return float(1 - scores[answered].mean()) if answered.any() else float("nan")


def _frequency(subject: Subject) -> list[str]:
    """Head, middle or tail of each question, by how frequent its answer is in training."""
    counts: Counter[str] = Counter()
    for (given,) in stream(subject.data.table("train"), "answers"):
        counts[most_given(given)] += 1
    total, seen, third = sum(counts.values()), 0, {}
    for answer, count in counts.most_common():
        third[answer] = ("head", "middle", "tail")[min(2, 3 * seen // total)]
        seen += count
    table = subject.results.table
    return [third.get(most_given(given), "tail") for given in table["answers"].to_pylist()]


def _thinned(curve: selective.Curve) -> dict[str, list[float]]:
    """At most 200 points, for the plot."""
    rows = np.unique(np.linspace(0, len(curve.risk) - 1, 200).round().astype(int))
    return {"coverage": curve.coverage[rows].tolist(), "risk": curve.risk[rows].tolist()}


def _least(threshold: float) -> str:
    if threshold in (0, np.inf):
        return "answers nothing" if threshold else "answers everything"
    return f"{100 * threshold:.2f} %"
