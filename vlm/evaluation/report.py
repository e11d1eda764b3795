"""What a run leaves behind: the table of its test, its curves, its predictions."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from vlm.core.terminal import WIDTH, new_table
from vlm.core.validation import counted
from vlm.datasets.baselines import Floors
from vlm.evaluation.results import Results
from vlm.image.as_text import in_words
from vlm.metrics import Interval, bootstrap_interval, per_answer

BASELINES = ("majority", "question_only", "ceiling")
TYPES_SHOWN = 20
"""Most of the data's own types of questions that the table shows, by frequency."""


class Report:
    """The scores of a split beside what they are to be compared with: a table, and files.

    Args:
        results: results of the split.
        split: its name.
        baselines: what is reached without the images, and the ceiling.
        answers: what can be answered, in words, such as "free text".
        about: what was evaluated, as plain data for the JSON file.

    Attributes:
        rows: accuracy, its 95 % interval, baselines and ceiling, overall and by the type that the
            data set reports by; shares in [0, 1].
        sets: of a mixture, the report of each set that has questions in the split.

    Raises:
        ValueError: the split has no answers to score by.
    """

    def __init__(
        self,
        results: Results,
        split: str,
        baselines: Floors | None = None,
        answers: str = "free text",
        about: Any = None,
    ) -> None:
        if not results.scores:
            raise ValueError(
                f"The {split} split has no answers to score by; use `predict` to write answers."
            )
        self.results, self.split, self.baselines = results, split, baselines
        self.answers, self.about = answers, about
        self.rows = self._rows(results.dataset.types, [None, *results.types()])
        self.sets = {name: self._of_set(name, part) for name, part in results.by_set().items()}

    def __repr__(self) -> str:
        questions = counted(len(self.results.scores), "question")
        return f"Report({self.split!r}, {questions}, accuracy {self.accuracy:.4f})"

    def _of_set(self, name: str, results: Results) -> Report:
        rows = np.asarray(self.results.keys(self.results.dataset.types), dtype=object) == name
        floors = self.baselines and self.baselines.of(rows)
        return Report(results, f"{self.split}: {name}", floors, self.answers)

    @property
    def accuracy(self) -> float:
        """Mean accuracy in [0, 1]."""
        return self.results.accuracy

    @property
    def interval(self) -> Interval:
        """95 % interval of the accuracy, bootstrapped by image."""
        return Interval(*(self.rows[0][name] for name in Interval._fields))

    @cached_property
    def summary(self) -> dict[str, float]:
        """Further figures by name (`Results.summary`)."""
        return self.results.summary()

    def type_rows(self) -> tuple[list[dict[str, Any]], str]:
        """`rows` by the data's own types of questions, the most frequent first.

        Returns:
            The rows, and a line about types without a row. Both are empty if the data have no such
            types, or if `rows` has them.
        """
        results = self.results
        shown_already = results.dataset.types == "question_type" or self.sets
        types = {} if shown_already else results.types("question_type")
        names = sorted(types, key=lambda name: -types[name].questions)
        shown, rest = names[:TYPES_SHOWN], names[TYPES_SHOWN:]
        questions = counted(sum(types[name].questions for name in rest), "question")
        more = f"{counted(len(rest), 'more type')}, with {questions}: see the results file"
        return self._rows("question_type", shown), more if rest else ""

    def _rows(self, column: str, names: Sequence[str | None]) -> list[dict[str, Any]]:
        columns: dict[str, Sequence[float]] = {"accuracy": self.results.scores}
        if self.baselines:
            columns |= {name: getattr(self.baselines, name) for name in BASELINES}
        values = {name: np.asarray(column) for name, column in columns.items()}
        clusters, unit = np.asarray(self.results.clusters), self.results.cluster_unit
        types = np.asarray(self.results.keys(column), dtype=object)
        rows = []
        for name in names:
            chosen = np.ones(len(clusters), dtype=bool) if name is None else types == name
            interval = bootstrap_interval(
                values["accuracy"][chosen], clusters[chosen].tolist(), unit=unit
            )
            row = {"type": name or "overall", "questions": int(chosen.sum())}
            row |= {column: float(value[chosen].mean()) for column, value in values.items()}
            rows.append(row | interval._asdict())
        return rows

    def print(self, console: Console) -> None:
        """Show the rows as a table, with those by the data's own type last, and the data set's
        other figures below."""
        headings = ["number", "accuracy %", "95 % interval"]
        baselines = BASELINES if self.baselines else ()
        headings += [name.replace("_", " ") + " %" for name in baselines]
        title = f"Accuracy on {self.split}"
        table = new_table(
            "questions about", *headings, numbers=headings, title=title, note=self._caption()
        )
        types, more = self.type_rows()
        for number, row in enumerate([*self.rows, *types]):
            if number == len(self.rows):
                table.add_section()
            table.add_row(
                row["type"],
                f"{row['questions']:,}",
                f"{100 * row['accuracy']:.2f}",
                f"{100 * row['low']:.2f} - {100 * row['high']:.2f}",
                *(f"{100 * row[name]:.2f}" for name in baselines),
            )
        console.print(table)
        if more:
            console.print(more)
        for name, value in self.summary.items():
            console.print(f"{name.replace('_', ' ')}: {value:.4f}")
        for report in self.sets.values():
            console.print()
            report.print(console)

    def __str__(self) -> str:
        # Names of types are the data set's, and no markup.
        # In a notebook, rich would show the text in place of writing it.
        console = Console(
            file=StringIO(), width=WIDTH, markup=False, emoji=False, force_jupyter=False
        )
        self.print(console)
        return console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO

    def _caption(self) -> str:
        caption = f"95 % interval over {self.rows[0]['over']} (bootstrap)."
        if self.baselines:
            caption += (
                f" Baselines: the most frequent training answer; the most frequent to the same "
                f"question. Ceiling: the best that {self.answers} can reach"
            )
            wrong = self.baselines.unanswerable
            if wrong:
                caption += f"; {counted(wrong, 'question')} without an answer in it, taken as wrong"
            caption += "."
        return caption

    def write(self, folder: Path) -> None:
        """Write `<split>.json` (the rows, the data set's further figures, the accuracy by question
        type, and precision, recall and F1 per answer; of a mixture the same of each set under
        `sets`) and `<split>_predictions.jsonl` (`Results.write`)."""
        content = {"about": self.about} | self._content()
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        (folder / f"{self.split}.json").write_text(text, encoding="utf-8")
        self.results.write(folder / f"{self.split}_predictions.jsonl")

    def _content(self) -> dict[str, Any]:
        references = self.results.table["answers"].to_pylist()
        most = [in_words(max(given, key=given.count)) for given in references]
        said = [in_words(answer) for answer in self.results.answers]
        answers = {answer: row._asdict() for answer, row in per_answer(said, most).items()}
        # JSON has no NaN: an undefined precision is null.
        for row in answers.values():
            row |= {name: None for name, value in row.items() if value != value}
        content = {
            "results": self.rows,
            "summary": self.summary,
            "question_types": {
                name: mean._asdict() for name, mean in self.results.types("question_type").items()
            },
            "answers": answers,
        }
        sets = {name: report._content() for name, report in self.sets.items()}
        return content | ({"sets": sets} if sets else {})


def plot_curves(metrics: Path, target: Path) -> None:
    """Draw the loss and accuracy curves of a run's `metrics.csv`."""
    from matplotlib.figure import Figure

    curves: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    with metrics.open(newline="") as file:
        for row in csv.DictReader(file):
            for name in ("train_loss", "val_loss", "val_accuracy"):
                if row.get(name):
                    curves[name].append((int(row["step"]), float(row[name])))
    figure = Figure(figsize=(9, 3.5), layout="constrained")
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
