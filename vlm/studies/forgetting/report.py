"""The report: how well a model answers, and what its encoders retained."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vlm.core.version import __version__
from vlm.evaluation.render import Section, write_sections
from vlm.metrics.aggregate import bootstrap_interval
from vlm.studies.forgetting.layers import Retention
from vlm.studies.forgetting.study import State, Study
from vlm.studies.report.plots import plot_layers, plot_tradeoff
from vlm.studies.report.vocabularies import describe_vocabularies

SHOWN_WORDS = 5
"""Of each run, those that lost most of their neighbours."""


class Kept(NamedTuple):
    """A retention measure shown in the summary and the plot: the label of its column and axis, its
    value for a state (None if not measured), and whether it is a share."""

    label: str
    of: Callable[[State], float | None]
    percent: bool


def _same_class(state: State) -> float | None:
    agreed = state.images.agreement if state.images else None
    return agreed.share if agreed else None


KEPT = (
    Kept("image: same class %", _same_class, True),
    Kept("image: CKA, last layer", lambda s: s.images.last if s.images else None, False),
    Kept("text: neighbours kept %", lambda s: s.texts.neighbours if s.texts else None, True),
    Kept("text: similarity kept", lambda s: s.texts.similarity if s.texts else None, False),
)


def write_report(study: Study, folder: Path, command: str) -> Path:
    """Write the report of a study, made by a command; returns the HTML file's path."""
    sections = [_what(study, command), _tradeoff(study), *_parts(study), _layers(study)]
    sections += [_words(state) for state in study.states if state.alpha == 1 and state.texts]
    sections.append(_reading())
    return write_sections(folder, "What fine-tuning kept", sections, _results(study, command))


def _what(study: Study, command: str) -> Section:
    table = [["run", "image encoder", "text encoder", "seed", "steps", "checkpoint"]]
    for run in study.runs:
        how = [run.training_of(part) for part in ("image_encoder", "text_encoder")]
        file = run.checkpoint.path
        table.append([run.name, *how, str(run.seed), f"{run.checkpoint.step:,}", file.name])
    text = [f"The {part.replace('_', ' ')}: {about}." for part, about in study.about.items()]
    text += study.notes
    text.append(
        f"vlm {__version__}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}. "
        f"Command: {command}"
    )
    return Section("What was measured", text, table)


def _tradeoff(study: Study) -> Section:
    kept = [k for k in KEPT if any(k.of(state) is not None for state in study.states)]
    asked = study.settings.split is not None
    accuracy = f"VQA accuracy on {study.settings.split} %"
    table = [["encoders", *([accuracy] if asked else []), *(k.label for k in kept)]]
    for state in study.states:
        cells = [_cell(k.of(state), k.percent) for k in kept]
        table.append([state.name, *([_accuracy(state)] if asked else []), *cells])
    if not asked:
        return Section("What was kept", ["The original encoders would have 100 % and 1."], table)
    panels = {
        k.label: [
            (s.run.name, s.alpha, value * (100 if k.percent else 1), 100 * s.accuracy.mean)
            for s in study.states
            if (value := k.of(s)) is not None and s.accuracy is not None
        ]
        for k in kept
    }
    text = [
        f"Accuracy by the data set's own metric on {study.states[0].accuracy.questions:,} "  # type: ignore[union-attr]  # asked
        f"{study.settings.split} questions, with its 95 % interval over questions, clustered by "
        f"image: it holds for other questions, and says nothing about other seeds. The original "
        f"encoders would have 100 % and 1 of what is kept.",
        describe_vocabularies({run.name: run.vocabulary for run in study.runs}),
    ]
    if study.settings.alphas:
        text.append(
            "Alpha: the encoders' weights are (1 - alpha) of the original and alpha of the run's; "
            "fusion and head are the run's, which learned on encoders at alpha 1."
        )
    plot = plot_tradeoff(panels, accuracy)
    plots = [("tradeoff.png", "VQA accuracy against what was kept", plot)]
    return Section("VQA accuracy against what was kept", text, table, plots)


def _parts(study: Study) -> list[Section]:
    first, sections = study.states[0], []
    cka = ["CKA, last layer", "CKA, lowest of a layer"]
    if first.images:
        table = [["encoders", "same class %", "top classes kept %", "divergence, nats", *cka]]
        for state in study.states:
            assert state.images is not None
            row = ["-"] * 3
            if agreed := state.images.agreement:
                interval = bootstrap_interval(list(agreed.same))
                share = f"{100 * agreed.share:.1f} ({_range(interval.low, interval.high)})"
                row = [share, f"{100 * agreed.top:.1f}", f"{agreed.divergence:.3f}"]
            table.append([state.name, *row, *_cka_cells(state.images)])
        text = ["In brackets the 95 % interval over images."]
        sections.append(Section("The image encoder", text, table))
    if first.texts:
        head = ["encoders", "neighbours kept %", "similarity kept", "paraphrase nearest %"]
        table, text = [[*head, *cka]], []
        if first.texts.paraphrases is not None:
            before = _cell(first.texts.paraphrases[0], True)
            text = [f"Paraphrase nearest, of the original: {before} %."]
        for state in study.states:
            texts = state.texts
            assert texts is not None
            share = "-" if texts.paraphrases is None else _cell(texts.paraphrases[1], True)
            kept = [_cell(texts.neighbours, True), _cell(texts.similarity, False), share]
            table.append([state.name, *kept, *_cka_cells(texts)])
        sections.append(Section("The text encoder", text, table))
    return sections


def _layers(study: Study) -> Section:
    """CKA by layer of the runs alone, without interpolated weights."""
    own = [state for state in study.states if state.alpha == 1]
    plotted: dict[str, dict[str, list[float]]] = {}
    table = [["layer", *(state.name for state in own)]]
    for kind, kept in (
        ("image", {state.name: state.images for state in own}),
        ("text", {state.name: state.texts for state in own}),
    ):
        found = {name: one.cka for name, one in kept.items() if one is not None}
        if not found:
            continue
        plotted[f"{kind} encoder"] = {name: list(cka.values()) for name, cka in found.items()}
        for number, layer in enumerate(found[own[0].name]):
            cells = [_cell(cka[layer], False) for cka in found.values()]
            table.append([f"{kind} {number}: {layer.removeprefix('model.')}", *cells])
    text = ["CKA with the original's layer, from the input to the output."]
    plot = ("layers.png", "CKA layer by layer", plot_layers(plotted))
    return Section("Layer by layer", text, table, [plot])


def _words(state: State) -> Section:
    assert state.texts is not None
    changed = sorted(state.texts.changes, key=lambda change: change.kept)[:SHOWN_WORDS]
    rows = [
        [c.word, ", ".join(c.before), ", ".join(c.after), f"{100 * c.kept:.0f}"]
        for c in changed
        if c.kept < 1
    ]
    if not rows:
        return Section(f"Words of {state.name}", ["Every word kept its neighbours."])
    table = [["word", "nearest before", "nearest after", "kept %"], *rows]
    return Section(f"Words of {state.name} that lost most neighbours", [], table)


def _reading() -> Section:
    text = [
        "Same class: the classifier that the weights came with, or the probe, is put on the "
        "fine-tuned encoder; counted is where its answer is that on the original. It is no "
        "accuracy: the original may be wrong. Images of another kind than those shown "
        "are not measured. CKA: 1 where a layer differs by a rotation and a scale alone; so "
        "low agreement at high CKA says that the head no longer fits what is still there.",
        "Neighbours and similarity are of these words and sentences. Frozen encoders keep all, by "
        "construction. One run each says little about other seeds, learning rates and lengths of "
        "training.",
    ]
    return Section("How to read this", text)


def _results(study: Study, command: str) -> dict[str, Any]:
    states = []
    for state in study.states:
        line: dict[str, Any] = {"run": state.run.name, "alpha": state.alpha}
        if state.accuracy is not None:
            interval = state.accuracy.interval
            line["accuracy"] = state.accuracy.mean
            line["accuracy_interval"] = [interval.low, interval.high]
        if (images := state.images) is not None:
            line["image_encoder"] = {"cka": _finite(images.cka)}
            if agreed := images.agreement:
                line["image_encoder"] |= {
                    "same_class": agreed.share,
                    "top_classes_kept": agreed.top,
                    "divergence": _number(agreed.divergence),
                }
        if (texts := state.texts) is not None:
            line["text_encoder"] = {
                "cka": _finite(texts.cka),
                "neighbours_kept": texts.neighbours,
                "similarity_kept": _number(texts.similarity),
                "paraphrase_nearest": texts.paraphrases,
                "words": {change.word: change.kept for change in texts.changes},
            }
        states.append(line)
    return {
        "command": command,
        "measured_on": study.about,
        "notes": study.notes,
        "split": study.settings.split,
        "runs": {
            run.name: {
                "checkpoint": str(run.checkpoint.path),
                "seed": run.seed,
                "vocabulary": run.vocabulary,
            }
            for run in study.runs
        },
        "states": states,
    }


def _finite(values: dict[str, float]) -> dict[str, float | None]:
    return {name: _number(value) for name, value in values.items()}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON does not support NaN


def _accuracy(state: State) -> str:
    assert state.accuracy is not None
    interval = state.accuracy.interval
    return f"{100 * state.accuracy.mean:.2f} ({_range(interval.low, interval.high)})"


def _range(low: float, high: float) -> str:
    return f"{100 * low:.1f} - {100 * high:.1f}"


def _cell(value: float | None, percent: bool) -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{100 * value:.1f}" if percent else f"{value:.3f}"


def _cka_cells(kept: Retention) -> list[str]:
    return [_cell(kept.last, False), _cell(kept.lowest, False)]
