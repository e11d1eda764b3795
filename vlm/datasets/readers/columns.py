"""Columns that a file lacks, and which of its own they may be."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Collection, Mapping, Sequence

from vlm.core.validation import did_you_mean, nearest
from vlm.datasets.errors import DataError

OTHERS = {
    "id": {"questionid", "qid", "uid", "sampleid"},
    "type": {"questiontype", "qtype", "category", "contenttype"},
    "answer_type": {"answertype", "atype"},
    "choices": {"options", "candidates", "multiplechoices", "choice"},
    "group": {"patient", "patientid", "subject", "subjectid", "scene", "sceneid", "video",
              "videoid", "case", "caseid", "study", "studyid"},
}  # fmt: skip
"""Common names of the optional columns, in lower case and without punctuation."""


NEAR = 0.65
"""How alike names have to be: 'image' and 'image_path' are, 'image' and the German 'Frage' not."""


class MissingColumnError(DataError):
    """No row of a file has a column that is needed."""

    kind = "missing column"


def hint(column: str, there: Collection[str], used: Collection[str]) -> str:
    """A question for the nearest name among those that nothing is read from, or nothing."""
    near = nearest(column, _unused(there, used), NEAR)
    return did_you_mean(near and repr(near))


def unused_columns(there: Collection[str], used: Collection[str]) -> list[str]:
    """Columns that are not read, except those that data frames add by themselves."""
    added = re.compile(r"(Unnamed: \d+|__index_level_\d+__)?")
    return [name for name in there if name not in used and not added.fullmatch(name)]


def meant(
    unused: Sequence[str],
    there: Collection[str],
    columns: Mapping[str, str],
    mapped: Collection[str],
) -> str | None:
    """A sentence about unread columns that look like one of ours that the file lacks, or None."""
    plain = {_plain(name): name for name in unused}
    found: dict[str, str] = {}
    for ours, others in OTHERS.items():
        if columns[ours] not in there:
            known = next((name for name in plain if name in others), None)
            if likely := known or nearest(ours.replace("_", ""), plain, 0.8):
                found[ours] = plain[likely]
    if not found:
        return None
    pairs = ", ".join(f"{theirs!r} (as {ours!r}?)" for ours, theirs in found.items())
    return f"not read: {pairs}. {_option(columns, mapped, found)}"


def missing_columns(
    missing: Sequence[str],
    there: Collection[str],
    columns: Mapping[str, str],
    mapped: Collection[str],
) -> str:
    """What to say of columns, at least one, that are not there, with an option that names the
    likely ones. `columns` are ours -> the file's, `mapped` those of ours that the user named."""
    named = ", ".join(repr(columns[name]) for name in missing)
    message = (
        f"there is no column {named}; the columns are {', '.join(map(repr, there)) or 'none'}."
        f"{hint(columns[missing[0]], there, columns.values())}"
    )
    likely = _likely(missing, _unused(there, columns.values()), columns)
    return f"{message} {_option(columns, mapped, likely or dict.fromkeys(missing, 'NAME'))}"


def _option(columns: Mapping[str, str], mapped: Collection[str], likely: Mapping[str, str]) -> str:
    # The option replaces what was given before.
    named = {ours: columns[ours] for ours in columns if ours in mapped} | dict(likely)
    pairs = ", ".join(f"{ours}: {_as_yaml(theirs)}" for ours, theirs in named.items())
    return (
        f"Map them with --dataset.columns, such as "
        f"--dataset.columns={shlex.quote('{' + pairs + '}')}."
    )


def _likely(
    missing: Sequence[str], unused: list[str], columns: Mapping[str, str]
) -> dict[str, str]:
    """The nearest names; the others in their order where as many are left."""
    likely, rest = {}, list(unused)
    for name in missing:
        if near := nearest(columns[name], rest, NEAR):
            likely[name] = near
            rest.remove(near)
    left = [name for name in missing if name not in likely]
    rest = [name for name in rest if not any(_plain(name) in others for others in OTHERS.values())]
    if len(left) == len(rest):
        likely |= dict(zip(left, rest, strict=True))
    return likely


def _unused(there: Collection[str], used: Collection[str]) -> list[str]:
    return [name for name in there if name not in used]


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name.lower())


def _as_yaml(name: str) -> str:
    return name if re.fullmatch(r"\w+", name) else json.dumps(name, ensure_ascii=False)
