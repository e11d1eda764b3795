"""The answers to the questions of a split, and their scores by the data set's own metric."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import pyarrow as pa

from vlm.datasets.base import Dataset
from vlm.datasets.mixture import Mixture
from vlm.datasets.several import as_data
from vlm.datasets.table import clusters, has_groups
from vlm.image.as_text import is_picture
from vlm.metrics import Mean, accuracy_by, anls, exact_match

NO_TYPE = "(none)"
"""The type of questions without one, if others have types."""


class Prediction(NamedTuple):
    """One answered question.

    Attributes:
        answer: the most likely one.
        probability: its own, in [0, 1]; None where it is unknown.
        by_head: the answers of the heads of a `MultiTask`; empty for others.
        watched: the probability of the answer that the data set watches; None where there is none,
            or the model cannot give it.
        calibrated: whether `probability` was calibrated.
    """

    answer: str
    probability: float | None = None
    by_head: Mapping[str, str] = {}
    watched: float | None = None
    calibrated: bool = False


class Results:
    """What the answers to the questions of a table are worth.

    Scores are the data set's own (`Dataset.score`) on the answers' text: a correct answer
    that a model's vocabulary lacks, or holds in another order than the data, is judged as what it
    is.

    Args:
        table: the questions that were answered.
        predictions: answers by question id, at least those of the table.
        dataset: says how an answer is scored.
        writes_text: whether answers are written freely, so that the summary has exact match and
            ANLS too, of those in words.
        takes_choices: whether answers are picked from each question's choices, so that the lines
            written have them.

    Attributes:
        predictions: answers by question id, in the order of the table.
        scores: accuracy in [0, 1] of each question of the table; empty where an answer is unknown.
    """

    def __init__(
        self,
        table: pa.Table,
        predictions: Mapping[str, Prediction],
        dataset: Dataset,
        writes_text: bool = False,
        takes_choices: bool = False,
    ) -> None:
        self.table, self.dataset = table, dataset
        self.writes_text, self.takes_choices = writes_text, takes_choices
        self.predictions = {key: predictions[key] for key in table["id"].to_pylist()}
        self.scores: list[float] = []
        if table["answers"].null_count == 0:
            self.scores = dataset.scores(table, self.answers)

    @property
    def answers(self) -> list[str]:
        """The answer given to each question."""
        return [prediction.answer for prediction in self.predictions.values()]

    @property
    def accuracy(self) -> float:
        """Mean accuracy in [0, 1]; NaN without known answers."""
        return sum(self.scores) / len(self.scores) if self.scores else float("nan")

    @property
    def clusters(self) -> list[int]:
        """The image of each question as a number, or its group, where the data have groups: what an
        interval takes as one."""
        return clusters(self.table).tolist()

    @property
    def cluster_unit(self) -> str:
        """What `clusters` are, for `Interval.over`."""
        return "group" if has_groups(self.table) else "image"

    def types(self, column: str | None = None) -> dict[str, Mean]:
        """Accuracy by type, in alphabetical order, of a column of the questions (by default the one
        that the data set reports by); empty where the data have none."""
        keys = self.keys(column or self.dataset.types)
        if not self.scores or set(keys) == {NO_TYPE}:
            return {}
        return dict(sorted(accuracy_by(self.scores, keys).items()))

    def keys(self, column: str) -> list[str]:
        """The type of each question in a column; `NO_TYPE` for one that has none."""
        return [NO_TYPE if key is None else key for key in self.table[column].to_pylist()]

    def by_set(self) -> dict[str, Results]:
        """The results of each set of a mixture, with the set's own metric; of others none."""
        if not isinstance(self.dataset, Mixture):
            return {}
        found = {}
        for name, dataset in self.dataset.datasets.items():
            table = self.dataset.part(self.table, name)
            if len(table):
                ids = table["id"].to_pylist()
                own = {key: self.predictions[f"{name}/{key}"] for key in ids}
                how = self.writes_text, self.takes_choices
                found[name] = Results(table, own, dataset, *how)
        return found

    def summary(self) -> dict[str, float]:
        """The accuracies of a `MultiTask`'s heads, exact match and ANLS of written answers, and the
        data set's further figures (`Dataset.summarize`); none without known answers."""
        if not self.scores:
            return {}
        own = self.dataset.summarize(self.table, self.answers, self.scores)
        watched = [p.watched for p in self.predictions.values() if p.watched is not None]
        if len(watched) == len(self.scores):
            own |= self.dataset.summarize_watched(self.table, watched)
        figures = self.heads()
        rows = zip(self.answers, self.table["answers"].to_pylist(), strict=True)
        pairs = [row for row in rows if not is_picture(row[1][0])]
        if self.writes_text and pairs:
            figures["exact_match"] = fmean(exact_match(*pair) for pair in pairs)
            figures["anls"] = fmean(anls(*pair) for pair in pairs)
        return figures | own

    def heads(self) -> dict[str, float]:
        """Mean accuracy in [0, 1] of each head of a `MultiTask`, as `<its name>_accuracy`."""
        predictions = list(self.predictions.values())
        if not self.scores or not predictions[0].by_head:
            return {}
        return {
            f"{name}_accuracy": fmean(
                self.dataset.scores(self.table, [given.by_head[name] for given in predictions])
            )
            for name in predictions[0].by_head
        }

    def write(self, path: Path) -> None:
        """Write one JSON line per question: id, image, question, answer type, the type by which the
        data set reports, and answer; where there are some, the number of its cluster, the
        probability of the answer, whether it was calibrated, that of the answer that the data set
        watches, what a `MultiTask`'s heads answered, and the choices; and answers and score where
        they are known.
        """
        grouped, clusters = self.cluster_unit == "group", self.clusters
        with path.open("w", encoding="utf-8") as file:
            for number, row in enumerate(self.table.to_pylist()):
                prediction = self.predictions[row["id"]]
                names = ("id", "image", "question", "answer_type", self.dataset.types)
                line = {name: row[name] for name in names}
                if grouped:
                    line["cluster"] = clusters[number]
                line["image"] = as_data(row["image"])
                line["answer"] = prediction.answer
                if prediction.probability is not None:
                    line["probability"] = round(prediction.probability, 6)
                    line["calibrated"] = prediction.calibrated
                if prediction.watched is not None:
                    line["watched"] = prediction.watched  # in full: a tie would change its rank
                if prediction.by_head:
                    line["by_head"] = dict(prediction.by_head)
                if self.takes_choices and row["choices"] is not None:
                    line["choices"] = row["choices"]
                if self.scores:
                    line |= {"answers": row["answers"], "score": self.scores[number]}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
