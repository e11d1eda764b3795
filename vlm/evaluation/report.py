"""What a run leaves behind: the table of its test, its curves, its predictions."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from vlm.evaluation.baselines import Floors
from vlm.evaluation.evaluation import Evaluation
from vlm.metrics import bootstrap_interval, per_answer

TYPES_SHOWN = 20
"""Most of the data's own types of questions that the table shows, by frequency."""


def report_rows(evaluation: Evaluation, floors: Floors | None) -> list[dict[str, Any]]:
    """Accuracy, interval, floors and ceiling, overall and by answer type; all in [0, 1].

    Raises:
        ValueError: the split has no answers to score by.
    """
    if not evaluation.scores:
        raise ValueError("This split has no answers to score by; use `predict` to write answers.")
    return _rows(evaluation, floors, evaluation.data.types, [None, *evaluation.types()])


def type_rows(evaluation: Evaluation, floors: Floors | None) -> tuple[list[dict[str, Any]], str]:
    """`report_rows` by the data's own types of questions, the most frequent first.

    Returns:
        The rows, and a line about types without a row. Both are empty if the data have no such
        types, or if `report_rows` uses them.
    """
    types = {} if evaluation.data.types == "question_type" else evaluation.types("question_type")
    names = sorted(types, key=lambda name: -types[name].questions)
    shown, rest = names[:TYPES_SHOWN], names[TYPES_SHOWN:]
    questions = sum(types[name].questions for name in rest)
    more = (
        f"{len(rest):,} more types, with {questions:,} questions: see the results file"
        if rest
        else ""
    )
    return _rows(evaluation, floors, "question_type", shown), more


def _rows(
    evaluation: Evaluation, floors: Floors | None, column: str, names: Sequence[str | None]
) -> list[dict[str, Any]]:
    columns: dict[str, Sequence[float]] = {"accuracy": evaluation.scores}
    if floors:
        columns |= {
            "majority": floors.majority,
            "question_only": floors.question_only,
            "ceiling": floors.ceiling,
        }
    values = {name: np.asarray(column) for name, column in columns.items()}
    images = np.asarray(evaluation.images)
    types = np.asarray(evaluation.keys(column), dtype=object)
    rows = []
    for name in names:
        chosen = np.ones(len(images), dtype=bool) if name is None else types == name
        interval = bootstrap_interval(values["accuracy"][chosen], images[chosen].tolist())
        row = {"type": name or "overall", "questions": int(chosen.sum())}
        row |= {column: float(value[chosen].mean()) for column, value in values.items()}
        rows.append(row | {"low": interval.low, "high": interval.high, "over": interval.over})
    return rows


def print_report(
    rows: list[dict[str, Any]],
    summary: dict[str, float],
    title: str,
    about: str,
    console: Console,
    by_type: tuple[list[dict[str, Any]], str] = ([], ""),
) -> None:
    """Show the rows as a table, with those by the data's own type last, and the data set's other
    figures below."""
    table = Table(title=title, caption=about, caption_justify="left")
    table.add_column("questions about", no_wrap=True)
    headings = ["number", "accuracy %", "95 % interval"]
    floors = [name for name in ("majority", "question_only", "ceiling") if name in rows[0]]
    for heading in headings + [name.replace("_", " ") + " %" for name in floors]:
        table.add_column(heading, justify="right")
    types, more = by_type
    for number, row in enumerate([*rows, *types]):
        if number == len(rows):
            table.add_section()
        table.add_row(
            row["type"],
            f"{row['questions']:,}",
            f"{100 * row['accuracy']:.2f}",
            f"{100 * row['low']:.2f} - {100 * row['high']:.2f}",
            *(f"{100 * row[name]:.2f}" for name in floors),
        )
    console.print(table)
    if more:
        console.print(more)
    for name, value in summary.items():
        console.print(f"{name.replace('_', ' ')}: {value:.4f}")


def write_report(
    path: Path, rows: list[dict[str, Any]], evaluation: Evaluation, about: Any
) -> None:
    """Write as JSON: the rows, the data set's further figures, the accuracy by question type, and
    precision, recall and F1 per answer."""
    predicted = [prediction.answer for prediction in evaluation.predictions.values()]
    references = [max(given, key=given.count) for given in evaluation.table["answers"].to_pylist()]
    answers = {a: row._asdict() for a, row in per_answer(predicted, references).items()}
    # JSON has no NaN: an undefined precision is null.
    for row in answers.values():
        row |= {name: None for name, value in row.items() if value != value}
    content = {
        "about": about,
        "results": rows,
        "summary": evaluation.summary(),
        "question_types": {
            name: mean._asdict() for name, mean in evaluation.types("question_type").items()
        },
        "answers": answers,
    }
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def plot_curves(metrics: Path, target: Path) -> None:
    """Draw the loss and accuracy curves of a run's `metrics.csv`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curves: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    with metrics.open(newline="") as file:
        for row in csv.DictReader(file):
            for name in ("train_loss", "val_loss", "val_accuracy"):
                if row.get(name):
                    curves[name].append((int(row["step"]), float(row[name])))
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    losses, accuracy = figure.subplots(1, 2)
    for name in ("train_loss", "val_loss"):
        if curves[name]:
            losses.plot(*zip(*curves[name], strict=True), label=name.replace("_", " "))
    losses.set(xlabel="step", ylabel="loss", yscale="log", title="Loss")
    losses.legend()
    if points := curves["val_accuracy"]:
        steps, values = zip(*points, strict=True)
        accuracy.plot(steps, [100 * value for value in values], marker="o")
    accuracy.set(xlabel="step", ylabel="accuracy %", title="Validation accuracy")
    for axis in (losses, accuracy):
        axis.grid(alpha=0.3)
    figure.savefig(target, dpi=120)
