"""`vlm list`: the public parts, with a line and a paper from their docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from importlib import import_module
from pkgutil import resolve_name
from typing import NamedTuple

from vlm.cli.command_parser import command_parser
from vlm.core.terminal import new_console, new_table
from vlm.core.validation import did_you_mean, nearest

MODULES = (
    "vlm.data.augmentation",
    "vlm.datasets",
    "vlm.fusion",
    "vlm.heads",
    "vlm.image",
    "vlm.text",
)
KINDS = {
    "fusions": ("vlm.fusion.Fusion",),
    "merges": ("vlm.fusion.Merge",),
    "encoders": ("vlm.image.ImageEncoder", "vlm.text.TextEncoder"),
    "heads": ("vlm.heads.AnswerHead",),
    "datasets": ("vlm.datasets.Dataset",),
    "augmentations": (
        "vlm.data.augmentation.ImageAugmentation",
        "vlm.data.augmentation.QuestionAugmentation",
    ),
}
"""Kinds of parts, with the base classes of each."""


class Part(NamedTuple):
    """A public part: its class path, the first sentence of its docstring, and the paper that this
    names, if it does."""

    name: str
    summary: str
    paper: str


def list_parts(kind: str | None = None) -> list[Part]:
    """The public parts of vlm.

    Args:
        kind: kind of part: fusions, merges, encoders, heads, datasets or augmentations; None for
            every kind.

    Raises:
        ValueError: another kind.

    Example:
        >>> [part.name for part in list_parts("heads")][:2]
        ['vlm.heads.AuxiliaryClassification', 'vlm.heads.Classification']
    """
    if kind is not None and kind not in KINDS:
        near = did_you_mean(nearest(kind, KINDS))
        raise ValueError(f"kind: got {kind!r}; expected one of {', '.join(KINDS)}.{near}")
    bases = [resolve_name(path) for name in KINDS if kind in (name, None) for path in KINDS[name]]
    return [
        _part(path)
        for base in bases
        for path in sorted(public_classes(base), key=str.casefold)
        if not inspect.isabstract(resolve_name(path)) and resolve_name(path) is not base
    ]


def public_classes(base: type) -> list[str]:
    """The public subclasses of a class of ours, itself included, as class paths."""
    if not base.__module__.startswith("vlm."):
        return []
    # A kind's classes are beside its base; the other modules take seconds to import.
    own = [module for module in MODULES if base.__module__.startswith(f"{module}.")]
    return [
        f"{module}.{name}"
        for module in own or MODULES
        for name in import_module(module).__all__
        if inspect.isclass(part := getattr(import_module(module), name)) and issubclass(part, base)
    ]


def list_command(arguments: Sequence[str]) -> None:
    """Print a table of each kind."""
    parser = command_parser(
        "list",
        "List the parts that a model is made of, and the data sets.",
        "examples:\n  vlm list\n  vlm list fusions\n"
        "Arguments of a part: vlm fit --model.fusion.help=vlm.fusion.CrossAttention",
    )
    parser.add_argument("kind", nargs="?", choices=tuple(KINDS), help="default: all kinds")
    given = parser.parse_args(arguments)
    console = new_console()
    for kind in KINDS if given.kind is None else [given.kind]:
        table = new_table(kind, "", "paper")
        for part in list_parts(kind):
            table.add_row(*part)
        console.print(table, "")


def _part(path: str) -> Part:
    text = inspect.getdoc(resolve_name(path)) or ""
    about = " ".join(text.partition("\nArgs:")[0].split())
    cited = re.search(r"\(([^()]*\b(?:arXiv|(?:199|20[0-3])\d)\b[^()]*)\)", about)
    paper = re.sub(r"(arXiv \d{4}\.\d{5}).*", r"\1", cited[1]) if cited else ""
    first = " ".join(text.partition("\n\n")[0].split())
    if cited:
        first = first.replace(f" ({cited[1]})", "")
    return Part(path, re.split(r"\.(?: |$)", first, maxsplit=1)[0], paper)
