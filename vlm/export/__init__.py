"""Models outside of PyTorch: three graphs, the files around them, and proof that they agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlm.core.lazy import lazy_names

if TYPE_CHECKING:
    from vlm.export.exported import Exported
    from vlm.export.manifest import ExportError
    from vlm.export.parity import Parity, measure_parity
    from vlm.export.write import export

_MODULES = {
    "ExportError": "manifest",
    "Exported": "exported",
    "Parity": "parity",
    "export": "write",
    "measure_parity": "parity",
}
__all__ = ["ExportError", "Exported", "Parity", "export", "measure_parity"]
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
