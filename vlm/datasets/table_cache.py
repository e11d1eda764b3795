"""Tables of questions that outlive the process: read once, memory-mapped from then on."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from vlm.core.files import cache_folder, whole_file
from vlm.core.terminal import working
from vlm.core.version import __version__
from vlm.datasets.arrow import in_pieces, map_arrow, write_arrow
from vlm.datasets.base import Dataset
from vlm.datasets.errors import is_collecting
from vlm.datasets.sources import FLEETING, noting, state

_KEY = b"vlm"
Module = TypeVar("Module", bound=Dataset)
Part = TypeVar("Part", bound=str)
Read = Callable[[Module, Part], pa.Table | None]


def cached(read: Read[Module, Part]) -> Read[Module, Part]:
    """Decorator of `Dataset.read`, or of a method that it calls: keeps the table in a file.

    The file lies in the user's cache. Only for a `read` that depends on nothing but the
    arguments that its own class adds to `Dataset`'s and on files that it opens by
    `vlm.datasets.readers.json_file` or notes in `vlm.datasets.sources`, and that changes nothing of
    its object that a training reads. An override without this decorator is not cached.

    A kept table is used while the arguments, vlm's version, the code of the reader and the path,
    size and time of every file are the same; else it is read anew and replaced. It is not used
    while problems are collected (`vlm check-data`). One that was read with a warning is not kept,
    so that the warning comes again, nor one whose images are in a temporary file.
    """

    @functools.wraps(read)
    def read_or_map(self: Module, split: Part) -> pa.Table | None:
        what = f"Reading {split} questions ({type(self).__name__})"
        if is_collecting():
            with working(what):
                return read(self, split)
        expected = _description(self, read, split)
        path = cache_folder() / "tables" / f"{_name(expected)}.arrow"
        table = _map(path, expected)
        if table is None:
            with working(what):
                table, sources = _read(lambda: read(self, split))
            if table is not None and sources:
                _keep(table, path, expected | {"sources": sources})
                kept = _map(path, expected)
                table = table if kept is None else kept
        return table

    return read_or_map


def _description(data: Dataset, read: Callable[..., Any], split: str) -> dict[str, Any]:
    base = inspect.signature(Dataset).parameters
    return {
        "version": __version__,
        "class": f"{type(data).__module__}.{type(data).__qualname__}",
        "read": f"{read.__module__}.{read.__qualname__}",
        "arguments": {n: str(v) for n, v in data.arguments.items() if n not in base},
        "split": split,
        "code": _code(type(data)),
    }


def _name(description: dict[str, Any]) -> str:
    """Of a file: one for each reader, its arguments and the split, whatever changes beside."""
    lasting = [description[name] for name in ("class", "read", "arguments", "split")]
    return hashlib.sha256(json.dumps(lasting, sort_keys=True).encode()).hexdigest()[:32]


def _code(reader: type) -> str:
    """Changes with every edit of the files that a reader's code may be in."""
    modules = {getattr(sys.modules.get(base.__module__), "__file__", None) for base in reader.mro()}
    files = {*map(str, Path(__file__).parent.rglob("*.py")), *filter(None, modules)}
    return hashlib.sha256(repr([state(path) for path in sorted(files)]).encode()).hexdigest()


def _map(path: Path, expected: dict[str, Any]) -> pa.Table | None:
    """The kept table; None where there is none that can be used."""
    try:
        table = map_arrow(path)
        table.validate()
        kept = json.loads(table.schema.metadata[_KEY])
        now = [list(state(given)) for given, *_ in kept["sources"]]
    # Absent, cut short, or of another program: all the same, it is read anew.
    except (OSError, pa.ArrowException, ValueError, TypeError, KeyError):
        return None
    own = {name: value for name, value in table.schema.metadata.items() if name != _KEY}
    return table.replace_schema_metadata(own) if kept == expected | {"sources": now} else None


def _read(read: Callable[[], pa.Table | None]) -> tuple[pa.Table | None, list[list[Any]]]:
    """What is read, and the files it depends on; none if it is not to be kept."""
    said: list[warnings.WarningMessage] = []
    try:
        with noting() as noted, warnings.catch_warnings(record=True) as said:
            table = read()
    finally:
        for one in said:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    kept = not said and FLEETING not in noted.values()
    return table, [list(source) for source in noted.values()] if kept else []


def _keep(table: pa.Table, path: Path, description: dict[str, Any]) -> None:
    own = table.schema.metadata or {}
    schema = table.schema.with_metadata(own | {_KEY: json.dumps(description)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            write_arrow(file, in_pieces(table), schema)
    except OSError as error:
        warnings.warn(
            f"{path}: the questions could not be cached there ({error.strerror}), so every start "
            "reads them again; set VLM_CACHE to a folder with space for them.",
            stacklevel=2,
        )
