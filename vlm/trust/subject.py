"""What a trust report is about: a model or a file of answers, on a split of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from vlm.adapters.image_text_to_text import ImageTextToText
from vlm.core.files import sha256
from vlm.data.ablations import controlled
from vlm.data.datamodule import VQADataModule
from vlm.data.images.store import Images
from vlm.datasets.base import Split
from vlm.datasets.baselines import Floors, compute_floors
from vlm.datasets.table import image_sample, split_groups, with_rows
from vlm.evaluation.predictions import read_predictions
from vlm.evaluation.results import Prediction, Results
from vlm.heads.multi_task import answering
from vlm.inference import VQA, load_any
from vlm.trust.asking import Asked, ask, ask_whole, images_of
from vlm.trust.calibrate import parts
from vlm.trust.selective import Floats

SAMPLE = 2000
"""Questions that are asked again in other words, or about worse images: whole images of them."""


class Unavailable(ValueError):
    """A section cannot be measured; the message says why, for the report."""


@dataclass
class Subject:
    """A model, or somebody's answers, whose trustworthiness is measured.

    Args:
        name: path, as it was given.
        digest: SHA-256 of the model (`VQA.digest`), or of the file of answers.
        data: data set, and where its images are.
        split: split of the questions.
        vqa: the model; None for answers from a file.
        given: the answers from a file; None for a model.
    """

    name: str
    digest: str
    data: VQADataModule
    split: Split
    vqa: VQA | ImageTextToText | None = None
    given: Results | None = None

    @classmethod
    def of_model(
        cls,
        name: str,
        data: VQADataModule,
        split: Split,
        device: str,
        trust: bool,
        prompt: str | None = None,
    ) -> Subject:
        """A run, its checkpoint, a shared model, or what else `vlm.load` names.

        Raises:
            OSError: there is no such model.
            ValueError: it cannot be loaded.
            DataError: the split has no answers.
        """
        data.dataset.check_answers(split)
        vqa = load_any(name, device, trust, prompt=prompt)
        for part in ("train", "validation"):  # as in its training
            if data.has(part):
                data.skip_unreadable(part, vqa.transform)
        return cls(name, vqa.digest, data, split, vqa)

    @classmethod
    def of_predictions(cls, path: Path, data: VQADataModule, split: Split) -> Subject:
        """Anybody's answers, in a format of `read_predictions`.

        Raises:
            FileNotFoundError: a file that does not exist.
            DataError: it does not fit the questions, or the split has no answers.
        """
        data.dataset.check_answers(split)
        read = read_predictions(path, data.dataset.table(split), split)
        results = Results(read.table, read.by_id, data.dataset, not read.choices, read.choices)
        return cls(str(path), sha256(path), data, split, given=results)

    @property
    def model(self) -> VQA | ImageTextToText:
        """The model.

        Raises:
            Unavailable: there is none.
        """
        if self.vqa is None:
            raise Unavailable("needs the model, and this report is of a file of answers")
        return self.vqa

    @cached_property
    def images_store(self) -> Images:
        """Where the model's images come from."""
        return images_of(self.data, self.split, self.model.transform)

    def ask(self, table: pa.Table, images: Images | None = None) -> Asked:
        """Ask the model; without `images`, about those of the split."""
        vqa = self.model
        store = images or self.images_store
        size = self.data.images_per_batch
        if isinstance(vqa, ImageTextToText):
            return ask_whole(vqa, table, store, self.takes_choices, size)
        return ask(vqa.model, table, store, vqa.calibration, False, size)

    @cached_property
    def takes_choices(self) -> bool:
        """Whether the model answers from each question's choices."""
        if isinstance(self.model, ImageTextToText):
            return self.data.table(self.split)["choices"].null_count == 0
        return self.model.kind == "choices"

    @cached_property
    def asked(self) -> Asked:
        """The model's answers to the split."""
        return self.ask(self.data.table(self.split))

    @cached_property
    def shuffled(self) -> Asked:
        """The model's answers where each image is another one of the split."""
        return self.ask(controlled(self.results.table, "image_shuffled", 0))

    @cached_property
    def results(self) -> Results:
        """Answers and scores of the split."""
        if self.given is not None:
            return self.given
        table, asked = self.data.table(self.split), self.asked
        pairs = zip(asked.answers, asked.probability.tolist(), strict=True)
        known = self.model.calibration is not None
        predictions = {
            key: Prediction(answer, p, calibrated=known)
            for key, (answer, p) in zip(table["id"].to_pylist(), pairs, strict=True)
        }
        writes = self.model.kind == "text" and not self.takes_choices
        if isinstance(self.model, VQA):  # one that writes may rank choices by what it would write
            writes = answering(self.model.model.head).writes_text
        return Results(table, predictions, self.data.dataset, writes, self.takes_choices)

    @property
    def scores(self) -> Floats:
        """(Q,) accuracy of each answer."""
        return np.asarray(self.results.scores)

    @property
    def clusters(self) -> list[int]:
        """`Results.clusters` of the questions."""
        return self.results.clusters

    @cached_property
    def probability(self) -> Floats:
        """(Q,) probability of each answer.

        Raises:
            Unavailable: answers without one.
        """
        found = [p.probability for p in self.results.predictions.values()]
        if missing := found.count(None):
            raise Unavailable(
                f"needs a probability for each answer, and {missing:,} of {len(found):,} have none"
            )
        return np.array(found, dtype=np.float64)

    @property
    def vocabulary(self) -> Sequence[str] | None:
        """All answers that the model can give; None if it writes them or picks from choices."""
        found = self.vqa.model.head.vocabulary if isinstance(self.vqa, VQA) else None
        return None if found is None else found.answers

    @cached_property
    def floors(self) -> Floors:
        """Floors and ceiling of the split."""
        table, choose = self.results.table, self.results.takes_choices
        train = self.data.table("train")
        return compute_floors(self.data.dataset, train, table, self.vocabulary, choose)

    @cached_property
    def calibration_part(self) -> tuple[Floats, Floats]:
        """Scores and probabilities of the validation questions that thresholds are certified on.

        Raises:
            Unavailable: a file of answers, which has none.
        """
        part = parts(self.data.table("validation"))[1]
        asked = self.ask(part, images_of(self.data, "validation", self.model.transform))
        return self.scored(part, asked), asked.probability

    @property
    def calibrated_here(self) -> bool:
        """Whether the model was calibrated on as many questions and images as this calibration part
        has; otherwise it was calibrated on other data."""
        known, part = self.model.calibration, parts(self.data.table("validation"))[1]
        sizes = len(part), len(np.unique(split_groups(part)))
        return known is not None and sizes == (known.certified_on, known.images)

    def scored(self, table: pa.Table, asked: Asked) -> Floats:
        """(Q,) accuracy of answers to a table's questions."""
        return np.array(self.data.dataset.scores(table, asked.answers))

    @cached_property
    def sample(self) -> np.ndarray:
        """(Q,) whether each question is in the sample (`image_sample`)."""
        return image_sample(self.results.table, SAMPLE)

    @property
    def sampled(self) -> pa.Table:
        """The questions of the sample."""
        return with_rows(self.results.table, self.sample)
