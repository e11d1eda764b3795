"""vlm: visual question answering with swappable encoders, fusions and answer heads.

Public names are imported when they are first used, so `import vlm` loads next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlm.core.features import Features, masked_max, masked_mean, masked_softmax
    from vlm.evaluation.evaluate import evaluate
    from vlm.inference import VQA, Answer, load
    from vlm.model import VQAModel

_HOMES = {
    "Answer": "vlm.inference",
    "Features": "vlm.core.features",
    "VQA": "vlm.inference",
    "VQAModel": "vlm.model",
    "evaluate": "vlm.evaluation.evaluate",
    "load": "vlm.inference",
    "masked_max": "vlm.core.features",
    "masked_mean": "vlm.core.features",
    "masked_softmax": "vlm.core.features",
}
__all__ = [
    "VQA",
    "Answer",
    "Features",
    "VQAModel",
    "evaluate",
    "load",
    "masked_max",
    "masked_mean",
    "masked_softmax",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vlm' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
