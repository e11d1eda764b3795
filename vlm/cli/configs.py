"""Configurations that come with vlm, by their names: `-c easy_vqa`, `configs/datasets/gqa.yaml`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vlm.core.bundled import bundled_config

TAKES_CONFIG = ("browse", "cache", "check-data", "compare", "shard", "tune")
"""Commands whose first argument is a configuration."""


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
    if not named and Path(value).parts[:1] != ("configs",):
        return None
    found = bundled_config(value)
    return None if found and Path(value).is_file() else found
