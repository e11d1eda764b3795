"""From the parser's messages to a few lines with the nearest name."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from vlm.core.validation import did_you_mean, nearest

SHORT_NAMES = (
    *("vlm.datasets", "vlm.fusion", "vlm.heads", "vlm.image", "vlm.text"),
    *("torch.optim", "lightning.pytorch.callbacks"),
)
"""Whose classes need no module before their name."""
CONFUSING = re.compile(
    r"Expected a (path but|<class 'NoneType'>)|Given value type|Subtypes|Errors:"
    r"|Given value: (Namespace|NestedArg)|Subclass types expect|a class path \(|a dict with"
)
"""Lines about types that the value might have had instead: None for an optional one, a file for a
class path."""


def explain(message: str) -> str:
    """Shorten a parser's message to a line and add the name that was probably meant.

    Unknown options and classes do not come here: `vlm.cli.check` refuses them.
    """
    if "Did you mean" in message:  # a part has a parser of its own, which said it
        return _shorten(message)
    near = _nearest(message)
    remedy = did_you_mean(near) if near else _remedy(message)
    return f"{_shorten(message)}.{remedy}" if remedy else _shorten(message)


def _remedy(message: str) -> str:
    """What to do about a missing configuration, or a class that vlm does not know."""
    if re.search(r"are required: \w+\.model\.", message):
        return " A configuration sets them, such as `-c easy_vqa`."
    if found := re.search(r"an instantiatable class, but ([\w.]+)\.(\w+) is abstract", message):
        made: Any = getattr(importlib.import_module(found[1]), found[2])
        return f" It lacks {', '.join(sorted(made.__abstractmethods__))}."
    found = re.search(r"No module named '(\w+)'", message)
    if found and any(Path(name).exists() for name in (found[1], f"{found[1]}.py")):
        return f" {found[1]} is in this folder: `python -m vlm` finds it there, and `vlm` does not."
    if found := re.search(r"Expected a dot import path string: (\w+)$", message, re.MULTILINE):
        return (
            f" `vlm list` names vlm's parts; a class of yours needs its module: my_file.{found[1]}."
        )
    return ""


def _shorten(message: str) -> str:
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    lines = [line for line in lines if line and not CONFUSING.match(line)]
    text = " ".join(lines).replace("Does not validate against any of the Union subtypes ", "")
    text = re.sub(
        r"Unexpected import path format: (\S+\.ya?ml)", r"\1: there is no such file.", text
    )
    text = re.sub(r"Expected a dot import path string: (\S+)", r"there is no class \1", text)
    text = re.sub(r"a typing\.Literal\[(.*?)\]", r"one of \1", text)
    return re.sub(r'Parser key "([\w.]+)":', r"\1:", text)


def _nearest(message: str) -> str | None:
    if found := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", message):
        module, name = found[1], found[2]
        near = nearest(name, _public(module))
        return f"{module}.{near}" if near else None
    if found := re.search(r"(?:Got|Given) value: (\S+)", message):
        choices = " ".join(re.findall(r"typing\.Literal\[(.*?)\]", message))
        if near := nearest(found[1], re.findall(r"[\w-]+", choices)):
            return near
    if found := re.search(r"Expected a dot import path string: (\w+)", message):
        return nearest(found[1], [name for module in SHORT_NAMES for name in _public(module)])
    return None


def _public(module: str) -> list[str]:
    loaded: Any = importlib.import_module(module)
    return list(getattr(loaded, "__all__", dir(loaded)))
