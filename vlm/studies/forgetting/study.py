"""What is measured of some runs that fine-tuned the same encoders, and the results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from vlm.metrics import Interval
from vlm.studies.forgetting.images import ImageRetention
from vlm.studies.forgetting.run import FineTuned
from vlm.studies.forgetting.texts import TextRetention

AccuracySplit = Literal["validation", "test"]


@dataclass(frozen=True)
class Settings:
    """What is measured, and on what.

    Attributes:
        split: split whose questions are asked; None for none.
        alphas: of the weights between before and after that are measured too.
        photos: a folder; None for the test images of the data set.
        most_photos: the most images to use.
        probe: a file, in the place of the original classifier.
        sentences: a file; None for vlm's own.
        neighbours: of a word.
        batch_size: images or sentences at a time.
        data: further options of `vlm fit`, for every run's data.
        trust: also import parts from outside vlm, which runs their code.
    """

    split: AccuracySplit | None = "validation"
    alphas: tuple[float, ...] = ()
    photos: Path | None = None
    most_photos: int = 1000
    probe: Path | None = None
    sentences: Path | None = None
    neighbours: int = 10
    batch_size: int = 32
    data: tuple[str, ...] = ()
    trust: bool = False


class Accuracy(NamedTuple):
    """Mean score of so many questions, in [0, 1], and its 95 % interval."""

    questions: int
    mean: float
    interval: Interval


class State(NamedTuple):
    """A run's model, or one with its encoders' weights between before and after.

    Attributes:
        run: the run.
        alpha: 1 for the run's own weights, 0 for the original encoders.
        accuracy: by the data set's own metric; None if no questions were asked.
        images: what the image encoder kept; None if it had nothing to keep.
        texts: what the text encoder kept; likewise.
    """

    run: FineTuned
    alpha: float
    accuracy: Accuracy | None
    images: ImageRetention | None
    texts: TextRetention | None

    @property
    def name(self) -> str:
        """In tables."""
        return state_name(self.run, self.alpha)


def state_name(run: FineTuned, alpha: float) -> str:
    """Of a run's model, or of what lies between."""
    return run.name if alpha == 1 else f"{run.name}, alpha {alpha:g}"


@dataclass
class Study:
    """The measurements.

    Attributes:
        settings: what was asked for.
        runs: that were measured.
        states: of the runs, and of what lies between.
        about: what they were measured on, by part, in words.
        notes: what was not measured, and why, a sentence each.
    """

    settings: Settings
    runs: Sequence[FineTuned]
    states: list[State] = field(default_factory=list)
    about: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
