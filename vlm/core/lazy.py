"""Public names of a package, imported when they are first used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

from vlm.core.extras import missing_extra


def lazy_names(
    package: str, modules: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], Sequence[str]]]:
    """The `__getattr__` and `__dir__` of a package whose names are imported on first use.

    `modules` has the module of each name, relative to the package; "" where the name is a module.
    """

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            module = import_module(f"{package}.{modules[name] or name}")
        except ModuleNotFoundError as error:
            if (sentence := missing_extra(error)) is None:
                raise
            raise ModuleNotFoundError(
                f"{package}.{name}: {sentence}", name=error.name, path=error.path
            ) from error
        value = getattr(module, name) if modules[name] else module
        setattr(sys.modules[package], name, value)
        return value

    def names() -> Sequence[str]:
        return sorted(modules)

    return get, names
