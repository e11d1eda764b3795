"""What a model's own probabilities are worth, learned from questions that it was not trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

ABOUT = "calibration"
"""Where a checkpoint's `about` keeps it."""
FEW = 50
"""Fewer questions than this calibrate nothing well."""
METHODS = ("temperature", "platt", "length")


class Threshold(NamedTuple):
    """The lowest probability at which answers keep a risk.

    Attributes:
        risk: share of wrong answers among those given, in (0, 1).
        probability: the threshold; None where none could be shown to keep the risk.
        coverage: share of the calibration questions that it answers.
        why: why there is none.
    """

    risk: float
    probability: float | None
    coverage: float = 0.0
    why: str = ""


@dataclass(frozen=True)
class Calibration:
    """Turns a head's scores into probabilities that mean what they say, and knows which are enough.

    The method depends on the head. "temperature": softmax(scale x logits) (Guo et al. 2017, arXiv
    1706.04599). "platt": sigmoid(scale x logit + bias) of each answer by itself, where these are
    independent (Platt 1999). "length": sigmoid(scale x log p + bias + length x characters) of a
    written answer, whose probability falls with each character.

    Attributes:
        method: one of these three.
        scale: above 0.
        bias: 0 for a temperature.
        length: 0 but for written answers.
        questions: number of questions that the three were fitted to.
        certified_on: number of other questions that the thresholds were certified on.
        images: number of images, or of groups of images (`group`), that these are about.
        thresholds: by risk.
        delta: probability that a threshold does not keep its risk.
        set_threshold: answers of at least this probability make a prediction set; None where a head
            has no list of answers.
        created: when, as ISO 8601.
    """

    method: str
    scale: float
    bias: float = 0.0
    length: float = 0.0
    questions: int = 0
    certified_on: int = 0
    images: int = 0
    thresholds: tuple[Threshold, ...] = ()
    delta: float = 0.05
    set_threshold: float | None = None
    created: str = ""

    @classmethod
    def of(cls, about: dict[str, Any]) -> Calibration | None:
        """That of a checkpoint's `about`, which a stranger may have written; None without one.

        Raises:
            ValueError: anything else.
        """
        stored = about.get(ABOUT)
        if stored is None:
            return None
        try:
            found = cls(
                **stored | {"thresholds": tuple(Threshold(*t) for t in stored["thresholds"])}
            )
            shares = [t.probability for t in found.thresholds] + [found.set_threshold]
            good = (
                found.method in METHODS
                and 0 < found.scale < math.inf
                and math.isfinite(found.bias)
                and math.isfinite(found.length)
                and all(s is None or 0 <= s <= 1 for s in shares)
                and all(0 < t.risk < 1 and 0 <= t.coverage <= 1 for t in found.thresholds)
                and all(isinstance(t.why, str) and len(t.why) < 200 for t in found.thresholds)
                and all(isinstance(n, int) for n in (found.questions, found.certified_on))
                and isinstance(found.images, int)
                and 0 < found.delta < 1
                and isinstance(found.created, str)
            )
        except (TypeError, KeyError, AttributeError):
            good = False
        if not good:
            raise ValueError(f"{ABOUT}: got {stored!r:.200}; expected what `vlm calibrate` writes.")
        return found

    @property
    def about(self) -> str:
        """In words, what it rests on."""
        day = f", {self.created[:10]}" if self.created else ""
        few = ", too few to rely on" if self.questions < FEW else ""
        return f"calibrated on {self.questions:,} validation questions{few} ({self.method}{day})"

    def threshold(self, max_risk: float) -> Threshold:
        """The threshold of the largest certified risk that is at most `max_risk`.

        Raises:
            ValueError: there is none; names what there is.
        """
        if not isinstance(max_risk, (int, float)) or not 0 < max_risk < 1:
            raise ValueError(f"max_risk: got {max_risk!r}; expected a share in (0, 1), as 0.05.")
        below = [t for t in self.thresholds if t.risk <= max_risk + 1e-12]
        held = [t for t in below if t.probability is not None]
        if not held:
            known = [f"{t.risk:g}" for t in self.thresholds if t.probability is not None]
            why = f" ({below[-1].why})" if below else ""
            remedy = f"; expected one of {', '.join(known)}." if known else ". Leave max_risk out."
            raise ValueError(
                f"max_risk: got {max_risk:g}, but this model has no threshold for it{why}{remedy}"
            )
        return max(held)

    def least(self, max_risk: float) -> float:
        """The lowest probability at which an answer is given; errors are those of `threshold`."""
        return self.threshold(max_risk).probability or 0.0

    def of_text(self, log_p: float, text: str) -> float:
        """The probability of a written answer, from the logarithm of the head's own."""
        logit = self.scale * log_p + self.bias + self.length * len(text)
        # In this order what is not a number stays so.
        return 1 / (1 + math.exp(-max(min(logit, 700.0), -700.0)))
