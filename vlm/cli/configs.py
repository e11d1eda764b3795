"""Configurations that come with vlm, by their names: `-c easy_vqa`, `configs/datasets/gqa.yaml`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

TAKES_CONFIG = ("browse", "cache", "check-data", "compare", "shard", "tune")
"""Commands whose first argument is a configuration."""
_PACKAGE = Path(__file__).parents[1]


def configs_folder() -> Path:
    """Where they are: in the installed package, or in a clone beside it."""
    inside = _PACKAGE / "configs"
    return inside if inside.is_dir() else _PACKAGE.parent / "configs"


def with_configs(command: str, arguments: Sequence[str]) -> list[str]:
    """The arguments with the paths of shipped configurations in the place of their names.

    After `-c`, and as the first argument of a command that takes a configuration, a name such as
    `easy_vqa` or `compare/daquar` will do; anywhere, a path such as `configs/datasets/gqa.yaml`.
    A file of the user's own goes first.
    """
    found, named = [], command in TAKES_CONFIG
    for argument in arguments:
        option, equals, value = argument.rpartition("=")
        named = named and not argument.startswith("-")
        path = _shipped(value, named or option in ("-c", "--config"))
        found.append(f"{option}{equals}{path or value}")
        named = argument in ("-c", "--config")
    return found


def _shipped(value: str, named: bool) -> Path | None:
    own = Path(value)
    if own.is_absolute() or ".." in own.parts:
        return None
    if own.parts[:1] == ("configs",):
        path = configs_folder().joinpath(*own.parts[1:])
    elif named and not own.suffix:
        path = configs_folder() / f"{value}.yaml"
    else:
        return None
    try:
        return path if path.is_file() and not own.is_file() else None
    except (OSError, ValueError):  # a text that no file can have as its name
        return None
