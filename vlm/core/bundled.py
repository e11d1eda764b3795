"""The trained models that come with vlm, by name."""

from __future__ import annotations

from pathlib import Path

from vlm.core.validation import did_you_mean, nearest

BUNDLED = Path(__file__).parents[1] / "bundled"
"""Folders of the shared models that come with vlm."""


def bundled_models() -> list[str]:
    """The names of the models that come with vlm, the best to begin with first."""
    return sorted((path.name for path in BUNDLED.iterdir()), reverse=True)


def bundled_folder(path: str | Path) -> Path | None:
    """The folder of the model of this name; None for a path, which goes first where it is there.

    Raises:
        FileNotFoundError: neither, but the name of a model with a slip.
    """
    name = str(path)
    if Path(name).name != name or Path(name).exists():
        return None
    if name in bundled_models():
        return BUNDLED / name
    if near := nearest(name, bundled_models()):
        raise FileNotFoundError(
            f"{name}: there is no such folder, and no model of this name comes with vlm."
            f"{did_you_mean(near)}"
        )
    return None
