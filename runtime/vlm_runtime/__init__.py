"""Answers questions about images with models that `vlm export` wrote, without PyTorch.

import vlm_runtime

model = vlm_runtime.load("my_export")
print(model.answer("photo.png", "what color is it?").text)
"""

from __future__ import annotations

from pathlib import Path

from vlm.asking import Answer
from vlm.export.exported import Exported
from vlm.export.manifest import ExportError
from vlm.image.rgb import ImageError

__all__ = ["Answer", "ExportError", "Exported", "ImageError", "load"]


def load(folder: str | Path, threads: int | None = None) -> Exported:
    """Load an export. Every file is checked against its digest, and no code of it is run.

    Args:
        folder: what `vlm export` wrote.
        threads: of the computation; None for onnxruntime's choice.

    Raises:
        ExportError: no export, one of another version, a file that was changed, or a torch export,
            which may run code of its author's and is for `vlm.load`.
    """
    return Exported(folder, threads)
