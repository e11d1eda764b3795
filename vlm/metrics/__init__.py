"""How good the answers are: VQA accuracy, means by type, intervals, precision and recall.

Scoring a question needs the standard library only. numpy (`aggregate`) and torchmetrics
(`torchmetric`) load on first use of a name from there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlm.core.lazy import lazy_names

# Not lazy: these are light, and a module of the same name would hide the function once loaded.
from vlm.metrics.gqa import gqa_consistency, gqa_distribution
from vlm.metrics.mean_per_type import MeanPerType, mean_per_type
from vlm.metrics.per_answer import PrecisionRecall, per_answer
from vlm.metrics.text_match import anls, exact_match
from vlm.metrics.vqa_accuracy import (
    direct_answer_accuracy,
    normalize_answer,
    soft_score,
    vizwiz_accuracy,
    vqa_accuracy,
)
from vlm.metrics.wups import mean_wups, wups

if TYPE_CHECKING:
    from vlm.metrics.aggregate import (
        Interval,
        Mean,
        accuracy_by,
        bootstrap_interval,
        seed_interval,
    )
    from vlm.metrics.torchmetric import ANLS, ExactMatch, MeanScore, VQAAccuracy

__all__ = [
    "ANLS",
    "ExactMatch",
    "Interval",
    "Mean",
    "MeanPerType",
    "MeanScore",
    "PrecisionRecall",
    "VQAAccuracy",
    "accuracy_by",
    "anls",
    "bootstrap_interval",
    "direct_answer_accuracy",
    "exact_match",
    "gqa_consistency",
    "gqa_distribution",
    "mean_per_type",
    "mean_wups",
    "normalize_answer",
    "per_answer",
    "seed_interval",
    "soft_score",
    "vizwiz_accuracy",
    "vqa_accuracy",
    "wups",
]

__getattr__, _ = lazy_names(
    __name__,
    {
        "ANLS": "torchmetric",
        "ExactMatch": "torchmetric",
        "Interval": "aggregate",
        "Mean": "aggregate",
        "MeanScore": "torchmetric",
        "accuracy_by": "aggregate",
        "bootstrap_interval": "aggregate",
        "seed_interval": "aggregate",
        "VQAAccuracy": "torchmetric",
    },
)


def __dir__() -> list[str]:
    return sorted(__all__)
