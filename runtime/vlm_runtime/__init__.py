"""Answers questions about images with models that `vlm export` wrote, without PyTorch.

import vlm_runtime

model = vlm_runtime.load("my_export")  # or "scenes" or "easy_vqa", which come with the runtime
print(model.answer("photo.png", "what color is it?").text)
"""

from __future__ import annotations

from pathlib import Path

from vlm.asking import Answer
from vlm.core.validation import did_you_mean, nearest
from vlm.export.exported import Exported
from vlm.export.manifest import ExportError
from vlm.image.rgb import ImageError

__all__ = ["Answer", "ExportError", "Exported", "ImageError", "bundled_models", "load"]
MODELS = Path(__file__).parent / "models"


def bundled_models() -> list[str]:
    """The names of the exports that come with the runtime, in 8 bits."""
    return sorted(path.name for path in MODELS.iterdir())


def load(folder: str | Path, threads: int | None = None) -> Exported:
    """Load an export. Every file is checked against its digest, and no code of it is run.

    Args:
        folder: what `vlm export` wrote, or one of `bundled_models`. A folder of that name
            goes first.
        threads: of the computation; None for onnxruntime's choice.

    Raises:
        ExportError: no export, one of another version, a file that was changed, or a torch export,
            which may run code of its author's and is for `vlm.load`.
    """
    given = Path(folder)
    if not given.exists() and given.name == str(folder):
        if given.name in bundled_models():
            given = MODELS / given.name
        elif near := nearest(given.name, bundled_models()):
            raise ExportError(
                f"{folder}: there is no such folder, and no export of this name comes with the "
                f"runtime.{did_you_mean(near)}"
            )
    return Exported(given, threads)
