"""The trained models and the configurations that come with vlm, by name."""

from __future__ import annotations

from pathlib import Path

from vlm.core.validation import did_you_mean, nearest

_PACKAGE = Path(__file__).parents[1]
BUNDLED = _PACKAGE / "bundled"
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


def configs_folder() -> Path:
    """Folder of the configurations: in the installed package, or in a clone beside it."""
    inside = _PACKAGE / "configs"
    return inside if inside.is_dir() else _PACKAGE.parent / "configs"


def config_name(path: Path) -> str:
    """The name of a configuration that comes with vlm, such as `easy_vqa`; the path of another."""
    folder = configs_folder().resolve()
    inside = path.resolve().is_relative_to(folder)
    return str(path.resolve().relative_to(folder).with_suffix("")) if inside else str(path)


def bundled_config(name: str) -> Path | None:
    """The configuration of this name, such as `easy_vqa` or `configs/datasets/gqa.yaml`; None if
    there is none."""
    given = Path(name)
    if given.is_absolute() or ".." in given.parts:
        return None
    if given.parts[:1] == ("configs",):
        path = configs_folder().joinpath(*given.parts[1:])
    elif not given.suffix:
        path = configs_folder() / f"{name}.yaml"
    else:
        return None
    try:
        return path if path.is_file() else None
    except (OSError, ValueError):  # a text that no file can have as its name
        return None
