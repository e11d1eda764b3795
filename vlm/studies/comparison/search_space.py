"""What a plan tunes: settings, each with a range of values."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from optuna import Trial

_SHORT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)e[-+]?\d+", re.IGNORECASE)


class Range(NamedTuple):
    """Values of one setting: those of `choices`, or from `low` to `high`."""

    choices: tuple[Any, ...] = ()
    low: float = 0
    high: float = 0
    log: bool = False

    @property
    def first(self) -> Any:
        return self.choices[0] if self.choices else self.low

    def suggest(self, trial: Trial, name: str) -> Any:
        if self.choices:
            return trial.suggest_categorical(name, self.choices)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)


@dataclass(frozen=True)
class Search:
    """What is tuned for each fusion, and how long.

    Attributes:
        trials: trainings of each fusion.
        space: settings by their names on the command line of `vlm fit`.
        epochs: of each trial; None for those of the base.
        seed: of the trials and of Optuna's choices.
    """

    trials: int
    space: dict[str, Range] = field(default_factory=dict)
    epochs: int | None = None
    seed: int = 0


def read_range(value: Any) -> Range | str:
    """A range from a plan's value, or what is wrong with it."""
    expected = "expected a list of values, or {low: ..., high: ..., log: true}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = list(map(number_of, value))
        if len(set(map(str, value))) < 2:
            return f"got {value!r}, which leaves nothing to choose; expected two values at least"
        return Range(choices=tuple(value))
    if not isinstance(value, dict) or set(value) - {"log"} != {"low", "high"}:
        return f"got {value!r}; {expected}"
    low, high, log = number_of(value["low"]), number_of(value["high"]), value.get("log", False)
    numbers = all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in (low, high))
    if not numbers or not all(map(math.isfinite, (low, high))) or not isinstance(log, bool):
        return f"got {value!r}; {expected}, both finite numbers"
    if not low < high or (log and low <= 0):
        above = " above 0" if log else ""
        return f"got {low} to {high}; expected two numbers{above}, the first below the second"
    return Range(low=low, high=high, log=log)


def number_of(value: Any) -> Any:
    """A value of a YAML file, where 1e-4 is a number too: to PyYAML it is a text."""
    if isinstance(value, str) and _SHORT.fullmatch(value):
        return float(value)
    return value
