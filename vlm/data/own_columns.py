"""Columns that a file lacks, and which of its own they may be."""

from __future__ import annotations

import difflib
import json
import re
import shlex
from collections.abc import Collection, Mapping, Sequence

from vlm.data.problems import DataError


class MissingColumnError(DataError):
    """No row of a file has a column that is needed."""

    kind = "missing column"


def hint(column: str, there: Collection[str], used: Collection[str]) -> str:
    """A question for the nearest name among those that nothing is read from, or nothing."""
    near = difflib.get_close_matches(column, _unused(there, used), 1)
    return f" Did you mean {near[0]!r}?" if near else ""


def missing_columns(
    missing: Sequence[str],
    there: Collection[str],
    columns: Mapping[str, str],
    mapped: Collection[str],
) -> str:
    """What to say of columns that are not there, with an option that names the likely ones.

    Args:
        missing: our names of them, at least one.
        there: the file's columns.
        columns: our names of columns -> the file's.
        mapped: those of them that the user named.
    """
    named = ", ".join(repr(columns[name]) for name in missing)
    message = (
        f"there is no column {named}; the columns are {', '.join(map(repr, there)) or 'none'}."
        f"{hint(columns[missing[0]], there, columns.values())}"
    )
    if not (likely := _likely(missing, _unused(there, columns.values()), columns)):
        return message
    # The option replaces what was given before.
    likely = {name: columns[name] for name in columns if name in mapped - likely.keys()} | likely
    pairs = ", ".join(f"{name}: {_as_yaml(column)}" for name, column in likely.items())
    return (
        f"{message} Say which is which with --data.columns, such as "
        f"--data.columns={shlex.quote('{' + pairs + '}')}."
    )


def _likely(
    missing: Sequence[str], unused: list[str], columns: Mapping[str, str]
) -> dict[str, str]:
    """The nearest names; the others in their order where as many are left."""
    likely, rest = {}, list(unused)
    for name in missing:
        if near := difflib.get_close_matches(columns[name], rest, 1):
            likely[name] = near[0]
            rest.remove(near[0])
    left = [name for name in missing if name not in likely]
    if len(left) == len(rest):
        likely |= dict(zip(left, rest, strict=True))
    return likely


def _unused(there: Collection[str], used: Collection[str]) -> list[str]:
    return [name for name in there if name not in used]


def _as_yaml(name: str) -> str:
    return name if re.fullmatch(r"\w+", name) else json.dumps(name, ensure_ascii=False)
