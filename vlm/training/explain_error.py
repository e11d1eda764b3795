"""From the parser's messages to a few lines with the nearest name."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Iterable
from typing import Any

PART_MODULES = ("vlm.data", "vlm.fusion", "vlm.heads", "vlm.image", "vlm.text")


def explain(message: str, known_options: Iterable[str]) -> str:
    """Shorten a parser's message to a line and add the name that was probably meant.

    Args:
        message: of the parser.
        known_options: the options of the command, such as `trainer.max_epochs`.
    """
    near = _nearest(message, list(known_options))
    return _shorten(message) + (f" Did you mean {near}?" if near else "")


def _shorten(message: str) -> str:
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    # What a value of another type would have had to be only confuses: None for an optional one,
    # a file for a class path.
    lines = [
        line
        for line in lines
        if line
        and not re.match(
            r"Expected a (path but|<class 'NoneType'>)|Given value type|Subtypes", line
        )
        and not re.match(r"Errors:|Given value: Namespace", line)
    ]
    text = " ".join(lines).replace("Does not validate against any of the Union subtypes ", "")
    text = re.sub(
        r"Unexpected import path format: (\S+\.ya?ml)", r"\1: there is no such file.", text
    )
    return re.sub(r'Parser key "([\w.]+)":', r"\1:", text)


def _nearest(message: str, known_options: list[str]) -> str | None:
    if found := re.search(
        r"(?:does not accept option|unrecognized arguments:) '?(?:--)?([\w.]+)", message
    ):
        return _closest(found[1], known_options)
    if found := re.search(r"invalid choice: '([^']+)' \(choose from (.*)\)", message):
        return _closest(found[1], re.findall(r"[\w-]+", found[2]))
    if found := re.search(r"Option '([\w.]+)' is not accepted", message):
        classes = re.findall(r"class_path '([\w.]+)'", message)
        classes = classes or [f"{m}.{name}" for m in PART_MODULES for name in _public(m)]
        return _closest(found[1], [name for path in classes for name in _arguments(path)])
    if found := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", message):
        module, name = found[1], found[2]
        near = _closest(name, _public(module))
        return f"{module}.{near}" if near else None
    if found := re.search(r"Expected a dot import path string: (\w+)", message):
        return _closest(found[1], [name for module in PART_MODULES for name in _public(module)])
    return None


def _closest(name: str, candidates: list[str]) -> str | None:
    near = difflib.get_close_matches(name, candidates, 1)
    return near[0] if near else None


def _public(module: str) -> list[str]:
    loaded: Any = importlib.import_module(module)
    folders = [name.removeprefix("vlm.") for name in PART_MODULES] if module == "vlm" else []
    return [*getattr(loaded, "__all__", dir(loaded)), *folders]


def _arguments(class_path: str) -> list[str]:
    module, _, name = class_path.rpartition(".")
    try:
        return list(inspect.signature(getattr(importlib.import_module(module), name)).parameters)
    except (ImportError, AttributeError, ValueError, TypeError):
        return []
