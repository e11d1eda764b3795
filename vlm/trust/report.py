"""The trust report: its sections one after the other, kept as they are finished, on one page."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from vlm.core.files import whole_file
from vlm.core.terminal import working
from vlm.core.validation import counted
from vlm.core.version import __version__
from vlm.datasets.table import stream
from vlm.evaluation.render import Section, new_figure, to_png, write_sections
from vlm.trust import absence, objects, sections, stress
from vlm.trust.sections import Found
from vlm.trust.subject import Subject, Unavailable

SCHEMA = 1
"""Version of report.json: higher when a reader of an older one would misread it."""
FILE = "report.json"
SECTIONS: dict[str, tuple[str, Callable[[Subject], Found]]] = {
    "accuracy": ("Accuracy", sections.accuracy),
    "groups": ("Accuracy by group, worst first", sections.groups),
    "unanswerable": ("Questions without an answer", absence.unanswerable),
    "calibration": ("Calibration", sections.calibration),
    "selective": ("Selective answering", sections.selective_answering),
    "sets": ("Prediction sets", sections.prediction_sets),
    "consistency": ("Consistency", stress.consistency),
    "corruptions": ("Image corruptions", stress.corruptions),
    "language": ("Language bias", absence.language_bias),
    "distribution": ("Questions about the wrong image", absence.off_distribution),
    "hallucination": ("Objects that are not there", objects.hallucination),
    "grounding": ("Faithfulness of explanations", objects.grounding),
    "forgetting": ("What fine-tuning kept", absence.forgetting),
}
"""Title and function of each section by its name, in the order of the report."""
AGAINST = "against"
AS_GIVEN = "probabilities as given"
"""What is said of a model that was not calibrated, and of a file of answers."""


def measure(
    subject: Subject,
    folder: Path,
    only: Sequence[str] = (),
    against: Subject | None = None,
) -> dict[str, Any]:
    """Measure the sections, and keep each in `report.json` as soon as it is finished.

    A section that the file has already, of the same subject, is not measured again.

    Args:
        subject: what is measured.
        folder: folder of the report.
        only: names in `SECTIONS`; all without any.
        against: a second subject, for paired differences.

    Returns:
        The content of `report.json`.

    Raises:
        ImageError: an image that cannot be read.
        ValueError: as its sections raise for what they are given.
    """
    names = [name for name in SECTIONS if not only or name in only]
    content = _begun(subject, folder)
    todo: list[tuple[str, str, Callable[[], Found]]] = [
        (name, title, lambda function=function: function(subject))  # type: ignore[misc]
        for name, (title, function) in SECTIONS.items()
        if name in names and not _is_measured(name, content)
    ]
    if against is not None:
        todo.append(
            (AGAINST, f"Against {against.name}", lambda: sections.compare(subject, against))
        )
    for number, (name, title, function) in enumerate(todo, start=1):
        try:
            with working(f"{title} (section {number} of {len(todo)})"):
                found = function()
        except Unavailable as reason:
            found = {"text": [f"Not measured: it {reason}."], "table": [], "numbers": {}}
        content["sections"][name] = _plain({"title": title, **found})
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / FILE) as file:
            file.write(_json(content).encode())
    return content


def write_report(content: dict[str, Any], folder: Path, command: str) -> Path:
    """Write report.html, with the plots inside, report.md, and report.json.

    Args:
        content: what `measure` returned.
        folder: folder of the report.
        command: command that makes this report.

    Returns:
        The path of report.html.
    """
    about, unit = content["about"], content["about"]["clusters"]
    images = counted(about["images"], "image")
    questions = f"{about['questions']:,} {about['split']} questions about {images}"
    intro = Section(
        f"Data and method ({about['dataset']})",
        [
            f"{about['name']}: {questions}, with {about['calibration']}. vlm {about['vlm']}.",
            _calibrated(about),
            f"Intervals are 95 %, by bootstrap over {unit}s with all their questions, by Clopper "
            f"and Pearson where every {unit} has the same score, or by Student's t for "
            "differences. They hold for this one trained model; another seed may differ by more. n "
            "counts questions. docs/trust.md explains each measure.",
        ],
        code=command,
    )
    order = [*SECTIONS, AGAINST]
    shown = [
        Section(found["title"], found["text"], found["table"], _plots(name, found["numbers"]))
        for name, found in sorted(content["sections"].items(), key=lambda x: order.index(x[0]))
    ]
    title = f"Trust report: {about['name']}"
    return write_sections(folder, title, [intro, *shown], content, FILE)


def _calibrated(about: Mapping[str, Any]) -> str:
    """On which questions the model was calibrated."""
    if about["calibration"] == AS_GIVEN:
        return "The probabilities are taken as they are: this report fits and certifies nothing."
    said = (
        "The validation images are split into two halves. The selection part fits the map from "
        "scores to probabilities and proposes thresholds; the calibration part certifies "
        "thresholds and prediction sets. The epoch was chosen on both: the certification of "
        "thresholds allows for this, that of prediction sets does not. "
    )
    if about["split"] == "test":
        return said + "Nothing is fitted or chosen on the test split, except where stated."
    if about["split"] == "validation":
        said += (
            "The questions of this report are the same ones, which flatters calibration, "
            "thresholds and sets; only the test split shows how good they are."
        )
    return said.strip()


def _is_measured(name: str, content: dict[str, Any]) -> bool:
    """Whether a section has its numbers; those of forgetting are another command's, and may have
    changed."""
    return name != "forgetting" and bool(content["sections"].get(name, {}).get("numbers"))


def _digest(table: pa.Table) -> str:
    """SHA-256 of all that a section may go by: where a row stood in its file is no such thing."""
    digest = hashlib.sha256()
    for row in stream(table, *(name for name in table.column_names if name != "place")):
        digest.update(repr(row).encode())
    return digest.hexdigest()


def _begun(subject: Subject, folder: Path) -> dict[str, Any]:
    """The report as far as it is there already, of the same subject and data; else a new one."""
    known = subject.vqa.calibration if subject.vqa else None
    about = {
        "name": subject.name,
        "digest": subject.digest,
        "dataset": type(subject.data.dataset).__name__,
        "split": subject.split,
        "questions": len(subject.data.table(subject.split)),
        "images": len(subject.data.table(subject.split)["image"].unique()),
        "clusters": subject.results.cluster_unit,
        "data": {
            split: _digest(subject.data.table(split))
            for split in dict.fromkeys(("train", "validation", subject.split))
            if subject.data.has(split)
        },
        "images read": repr(subject.data.images),
        "calibration": f"probabilities {known.about}" if known else AS_GIVEN,
        "vlm": __version__,
    }
    try:
        content: dict[str, Any] = json.loads((folder / FILE).read_bytes())
        if content["schema"] == SCHEMA and content["about"] == about:
            return content
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return {"schema": SCHEMA, "about": about, "sections": {}}


def _plots(name: str, numbers: Any) -> list[tuple[str, str, bytes]]:
    if name == "calibration" and numbers:
        states = numbers["bins"]
        figure, axes = new_figure(4.2 * len(states), 4, len(states))
        for axis, (state, bins) in zip(axes, states.items(), strict=True):
            questions, probability, accuracy = bins
            shares = [count / sum(questions) for count in questions]
            axis.bar(probability, shares, 0.03, color="lightgray", label="share of the questions")
            axis.plot([0, 1], [0, 1], "--", color="tab:gray", linewidth=1)
            axis.legend(loc="upper left")
            axis.plot(probability, accuracy, "o-", markersize=4)
            axis.set(xlabel=f"probability, {state}", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
        what = "Accuracy by probability, and how many questions have it"
        return [("reliability.png", what, to_png(figure))]
    if name == "selective" and numbers:
        figure, [axis] = new_figure(6, 3.6)
        curve = numbers["curve"]
        axis.plot([100 * c for c in curve["coverage"]], [100 * r for r in curve["risk"]])
        axis.set(xlabel="coverage %", ylabel="risk %", xlim=(0, 100), ylim=(0, None))
        return [("risk_coverage.png", "Risk by coverage", to_png(figure))]
    return []


def _plain(value: Any) -> Any:
    """For JSON, which has no NaN and no infinity: these become null."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1, allow_nan=False) + "\n"
