"""Settings and results of measuring runs that fine-tuned the same encoders."""

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
    """What to measure, and on which data.

    Attributes:
        split: split whose questions are asked; None to ask none.
        alphas: interpolation factors of further weights to measure.
        photos: folder of photos; None for the data set's test images.
        probe: file of a probe to use instead of the original classifier.
        sentences: file of sentences; None for vlm's own.
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
    """Mean score in [0, 1], its 95 % interval, and the number of questions."""

    questions: int
    mean: float
    interval: Interval


class State(NamedTuple):
    """A run's model (alpha 1), or one with encoder weights interpolated with the originals (0).

    What was not measured is None.
    """

    run: FineTuned
    alpha: float
    accuracy: Accuracy | None
    images: ImageRetention | None
    texts: TextRetention | None

    @property
    def name(self) -> str:
        """The name used in tables."""
        return state_name(self.run, self.alpha)


def state_name(run: FineTuned, alpha: float) -> str:
    """Name of a run's model or of an interpolated one."""
    return run.name if alpha == 1 else f"{run.name}, alpha {alpha:g}"


@dataclass
class Study:
    """The measurements; `about` says for each part what it was measured on, `notes` what was not
    measured, and why."""

    settings: Settings
    runs: Sequence[FineTuned]
    states: list[State] = field(default_factory=list)
    about: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
