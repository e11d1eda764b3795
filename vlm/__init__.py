"""vlm: visual question answering with swappable encoders, fusions and answer heads.

Public names and subpackages are imported when they are first used, so `import vlm` loads next to
nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlm.core.lazy import lazy_names
from vlm.core.version import __version__ as __version__

if TYPE_CHECKING:
    from vlm import (
        adapters,
        data,
        datasets,
        explain,
        export,
        fusion,
        heads,
        image,
        metrics,
        testing,
        text,
        training,
    )
    from vlm.asking import Answer
    from vlm.cli.commands.list_parts import list_parts
    from vlm.core.features import Features, masked_max, masked_mean, masked_softmax
    from vlm.data.datamodule import VQADataModule
    from vlm.evaluation.evaluate import evaluate
    from vlm.export.load import load
    from vlm.inference import VQA
    from vlm.model import VQAModel
    from vlm.training.fit import Run, fit
    from vlm.training.task import VQATask

_MODULES = {
    "Answer": "asking",
    "Features": "core.features",
    "Run": "training.fit",
    "VQA": "inference",
    "VQADataModule": "data.datamodule",
    "VQAModel": "model",
    "VQATask": "training.task",
    "evaluate": "evaluation.evaluate",
    "fit": "training.fit",
    "list_parts": "cli.commands.list_parts",
    "load": "export.load",
    "masked_max": "core.features",
    "masked_mean": "core.features",
    "masked_softmax": "core.features",
    "adapters": "",
    "data": "",
    "datasets": "",
    "explain": "",
    "export": "",
    "fusion": "",
    "heads": "",
    "image": "",
    "metrics": "",
    "testing": "",
    "text": "",
    "training": "",
}
__all__ = [
    "VQA",
    "Answer",
    "Features",
    "Run",
    "VQADataModule",
    "VQAModel",
    "VQATask",
    "adapters",
    "data",
    "datasets",
    "evaluate",
    "explain",
    "export",
    "fit",
    "fusion",
    "heads",
    "image",
    "list_parts",
    "load",
    "masked_max",
    "masked_mean",
    "masked_softmax",
    "metrics",
    "testing",
    "text",
    "training",
]
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
