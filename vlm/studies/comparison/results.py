"""The results of the finished runs, collected by fusion."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vlm.datasets.several import as_one
from vlm.evaluation.significance import Difference, Estimate, Scores, accuracy, against_best
from vlm.studies.comparison.build import Variant
from vlm.studies.comparison.cost import Cost
from vlm.studies.comparison.plan import Plan, PlanError
from vlm.studies.comparison.runs import Failure, Run
from vlm.studies.comparison.search import Tuned


@dataclass(frozen=True)
class Questions:
    """The test questions that all runs answered.

    Attributes:
        clusters: (Q,) what an interval counts once: the group of a question, or its image.
        types: by which the data set reports.
    """

    ids: list[str]
    images: np.ndarray
    clusters: np.ndarray
    types: list[str | None]
    texts: list[str]
    answers: list[list[str] | None]

    def same(self, other: Questions) -> bool:
        """Whether these are the same questions, with the same images and answers."""
        return all(
            list(one) == list(two) for one, two in zip(astuple(self), astuple(other), strict=True)
        )

    def rows(self) -> dict[str, np.ndarray]:
        """Boolean masks (Q,) of the questions in each row of a table: overall and by type."""
        kinds = np.asarray(self.types, dtype=object)
        chosen = {"overall": np.ones(len(self.ids), dtype=bool)}
        if None not in self.types:
            chosen |= {str(kind): kinds == kind for kind in sorted(set(kinds))}
        return chosen


@dataclass(frozen=True)
class Outcome:
    """The finished runs of one fusion or control, each by its seed.

    Attributes:
        scores: scores (Q,) in [0, 1].
        seconds: training time.
        tests: `results` of test.json, for the baselines and the ceiling.
        vocabularies: descriptions of the answer vocabulary from the checkpoints
            (`vlm.datasets.Dataset.describe_answers`); None if there is none.
    """

    name: str
    scores: dict[int, Scores]
    seconds: dict[int, float]
    folders: dict[int, Path]
    tests: dict[int, list[dict[str, Any]]]
    vocabularies: dict[int, dict[str, Any] | None]

    @property
    def table(self) -> Scores:
        """Scores (S, Q) by seed and question."""
        return np.stack(list(self.scores.values()))


@dataclass(frozen=True)
class Comparison:
    """Everything the report is made from, by the names of fusions and controls."""

    plan: Plan
    variants: dict[str, Variant]
    questions: Questions
    outcomes: dict[str, Outcome]
    costs: dict[str, Cost]
    failures: list[Failure]
    tuned: dict[str, Tuned] = field(default_factory=dict)

    @cached_property
    def ranked(self) -> list[Outcome]:
        """The fusions' outcomes, best first; those that lack seeds come after the others."""
        fusions = [o for name, o in self.outcomes.items() if self.variants[name].control is None]
        return sorted(fusions, key=lambda o: (-len(o.scores), -float(o.table.mean())))

    @cached_property
    def controls(self) -> list[Outcome]:
        """The controls' outcomes, in the order of the plan."""
        return [o for name, o in self.outcomes.items() if self.variants[name].control]

    @cached_property
    def accuracies(self) -> dict[str, dict[str, Estimate]]:
        """Accuracy of each outcome by name, overall and by answer type."""
        rows = self.questions.rows()
        return {
            name: {
                kind: accuracy(outcome.table[:, chosen], self.questions.clusters[chosen].tolist())
                for kind, chosen in rows.items()
            }
            for name, outcome in self.outcomes.items()
        }

    def overall(self, outcomes: Sequence[Outcome]) -> dict[str, Estimate]:
        """Accuracy on all questions, by name."""
        return {outcome.name: self.accuracies[outcome.name]["overall"] for outcome in outcomes}

    def vocabularies(self) -> dict[str, dict[str, Any] | None]:
        """Descriptions of the runs' answer vocabularies: by seed if all runs of a seed share one,
        else by run."""
        found = {
            (name, seed): about
            for name, outcome in self.outcomes.items()
            for seed, about in outcome.vocabularies.items()
        }
        by_seed = {seed: about for (_, seed), about in found.items()}
        if all(about == by_seed[seed] for (_, seed), about in found.items()):
            return {f"seed {seed}": about for seed, about in by_seed.items()}
        return {f"{name} (seed {seed})": about for (name, seed), about in found.items()}

    @cached_property
    def differences(self) -> tuple[str, list[Difference]]:
        """The best fusion with all its seeds, and the differences of the others from it, best
        first."""
        scores = {outcome.name: outcome.scores for outcome in self.ranked}
        return against_best(scores, self.questions.clusters.tolist())


def read_outcomes(
    runs: Sequence[Run], types: str = "answer_type"
) -> tuple[Questions | None, list[Outcome]]:
    """Read the finished runs in the order given; the questions are None if none is finished.

    Args:
        runs: of a comparison.
        types: the column that the data set reports by (`vlm.datasets.Dataset.types`).

    Raises:
        PlanError: the runs answered different questions.
    """
    questions: Questions | None = None
    outcomes: dict[str, Outcome] = {}
    for run in runs:
        if not run.finished:
            continue
        with (run.results / "test_predictions.jsonl").open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        names = ("id", "image", types, "question", "answers")
        ids, images, kinds, texts, answers = ([row[key] for row in rows] for key in names)
        images = [as_one(i) if isinstance(i, list) else i for i in images]
        found = Questions(
            ids,
            np.array(images, dtype=object),
            np.array([row.get("cluster", i) for row, i in zip(rows, images, strict=True)], object),
            kinds,
            texts,
            answers,
        )
        questions = questions or found
        if not found.same(questions):
            raise PlanError(
                f"{run.results}: answers other questions than the runs before; expected one test "
                f"split for all. Remove the runs made before the data changed."
            )
        report = json.loads((run.results / "test.json").read_text(encoding="utf-8"))
        outcome = outcomes.setdefault(run.name, Outcome(run.name, {}, {}, {}, {}, {}))
        outcome.scores[run.seed] = np.array([row["score"] for row in rows], dtype=np.float64)
        outcome.seconds[run.seed] = float(report["about"]["seconds"])
        outcome.folders[run.seed] = run.results
        outcome.tests[run.seed] = report["results"]
        outcome.vocabularies[run.seed] = report["about"].get("vocabulary")
    return questions, list(outcomes.values())
