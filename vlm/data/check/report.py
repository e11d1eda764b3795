"""What `check_data` found, as text, JSON and a plot."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console

from vlm.core.terminal import new_table
from vlm.core.validation import counted
from vlm.data.check.result import DataCheck, SplitSummary
from vlm.datasets.errors import Problems

MOST_ANSWERS = 20
"""Answers in the plot and the JSON file."""
MOST_COLUMNS = 20
"""Unread columns that are listed."""


def print_check(check: DataCheck, console: Console) -> None:
    """Problems, then the splits' figures."""
    for name, problems in (("error", check.errors), ("warning", check.warnings)):
        for kind, count in problems.counts.items():
            shown = problems.kept[kind]
            console.print(f"{name}: {kind} ({count:,})", style="bold")
            for message in shown:
                console.print(f"  {message}", soft_wrap=True)
            if count > len(shown):
                console.print(f"  ... and {count - len(shown):,} more")
    for file, names in check.unused.items():
        listed = ", ".join(map(repr, names[:MOST_COLUMNS]))
        more = f" and {len(names) - MOST_COLUMNS:,} more" if len(names) > MOST_COLUMNS else ""
        console.print(f"{file}: not read: {listed}{more}.", soft_wrap=True)
    if check.splits:
        _print_splits(check, console)
    errors, warned = (sum(p.counts.values()) for p in (check.errors, check.warnings))
    console.print(f"{counted(errors, 'error')}, {counted(warned, 'warning')}.")


def _print_splits(check: DataCheck, console: Console) -> None:
    table = new_table("", *check.splits, numbers=list(check.splits))
    rows = [_figures(summary) for summary in check.splits.values()]
    for name in rows[0]:
        table.add_row(name, *(row[name] for row in rows))
    console.print(table)
    if any(summary.floors for summary in check.splits.values()):
        picked = ", among the question's choices" if check.kind == "choices" else ""
        console.print(
            f"Baselines: the most frequent training answer; the most frequent to the same question"
            f"{picked}. Ceiling: the best that {_answers(check)} can reach by the set's metric, "
            f"which may give answers of two or three annotators less than 100 %."
        )


def _answers(check: DataCheck) -> str:
    if check.vocabulary is not None:
        size = counted(len(check.vocabulary), "answer")
        return f"the {size} of the vocabulary ({check.vocabulary.hash})"
    return "the set of each question's choices" if check.kind == "choices" else "free text"


def _figures(summary: SplitSummary) -> dict[str, str]:
    given = sum(summary.answers.values())

    def percent(name: str) -> str:
        return f"{100 * summary.floors[name]:.2f}" if name in summary.floors else ""

    return {
        "questions": f"{summary.questions:,}",
        "different questions": f"{summary.different:,}",
        "images": f"{summary.images:,}",
        "with answers": f"{summary.answered:,}",
        "answers per question": f"{given / summary.answered:.1f}" if summary.answered else "",
        "different answers": f"{len(summary.answers):,}",
        "words per question, median": _quantile(summary.words, 0.5),
        "words per question, 95 %": _quantile(summary.words, 0.95),
        "words per question, most": _quantile(summary.words, 1),
        "majority %": percent("majority"),
        "question only %": percent("question_only"),
        "ceiling %": percent("ceiling"),
    }


def _quantile(counts: Counter[int], share: float) -> str:
    if not counts.total():
        return ""
    values = sorted(counts)
    reached = np.cumsum([counts[value] for value in values])
    return str(values[np.searchsorted(reached, share * counts.total())])


def write_check(check: DataCheck, folder: Path) -> None:
    """`check.json` and `distributions.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {
        "errors": _problems(check.errors),
        "warnings": _problems(check.warnings),
        "unread_columns": check.unused,
        "answers": check.kind,
        "vocabulary": check.vocabulary
        and {"size": len(check.vocabulary), "hash": check.vocabulary.hash},
        "splits": {split: _summary(summary) for split, summary in check.splits.items()},
    }
    text = json.dumps(content, indent=1, ensure_ascii=False)
    (folder / "check.json").write_text(text + "\n", encoding="utf-8")
    plot_distributions(check, folder / "distributions.png")


def _problems(problems: Problems) -> dict[str, Any]:
    return {
        kind: {"count": count, "first": problems.kept[kind]}
        for kind, count in problems.counts.items()
    }


def _summary(summary: SplitSummary) -> dict[str, Any]:
    return {
        "questions": summary.questions,
        "different_questions": summary.different,
        "images": summary.images,
        "with_answers": summary.answered,
        "different_answers": len(summary.answers),
        "most_frequent_answers": dict(summary.answers.most_common(MOST_ANSWERS)),
        "questions_by_words": {str(n): summary.words[n] for n in sorted(summary.words)},
        "unanswerable": summary.unanswerable,
        **summary.floors,
    }


def plot_distributions(check: DataCheck, target: Path) -> None:
    """The most frequent answers, how many answers cover how much, and the questions' lengths."""
    figure = Figure(figsize=(14, 5), layout="constrained")
    answers, coverage, lengths = figure.subplots(1, 3)
    splits = [(split, found) for split, found in check.splits.items() if found.answers]
    if splits:
        _plot_answers(answers, splits)
    for split, summary in splits:
        counts = [count for _, count in summary.answers.most_common()]
        points = 100 * np.cumsum(counts) / sum(counts)
        coverage.plot(range(1, len(points) + 1), points, label=split)
    coverage.set(xscale="log", xlabel="most frequent answers", ylabel="% of the answers given")
    coverage.set_title("Coverage")
    for split, summary in check.splits.items():
        words = sorted(summary.words)
        shares = [100 * summary.words[n] / max(1, summary.questions) for n in words]
        lengths.plot(words, shares, marker=".", label=split)
    lengths.set(xlabel="words", ylabel="% of the questions", title="Length of questions")
    for axis in (answers, coverage, lengths):
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend()
    with warnings.catch_warnings():
        # Its font lacks Chinese and emoji, which come out as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(target, dpi=120)


def _plot_answers(axis: Axes, splits: Sequence[tuple[str, SplitSummary]]) -> None:
    """Shares of the answers that are most frequent in the first split."""
    names = [answer for answer, _ in splits[0][1].answers.most_common(MOST_ANSWERS)]
    names.reverse()
    height = 0.8 / len(splits)
    for place, (split, summary) in enumerate(splits):
        total = sum(summary.answers.values())
        rows = [row - place * height for row in range(len(names))]
        axis.barh(rows, [100 * summary.answers[a] / total for a in names], height, label=split)
    labels = [name if len(name) <= 24 else name[:23] + "…" for name in names]
    axis.set_yticks(range(len(names)), labels, parse_math=False)
    axis.set(xlabel="% of the answers given", title="Most frequent answers")
