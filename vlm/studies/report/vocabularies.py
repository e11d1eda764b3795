"""Which answers the runs of a report could give, in words beside their scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlm.datasets.vocabulary import vocabulary_in_words


def describe_vocabularies(found: Mapping[str, Mapping[str, Any] | None]) -> str:
    """A paragraph: the vocabulary of all runs, or each vocabulary with the runs that have it.

    Args:
        found: what each run's checkpoint keeps of its vocabulary
            (`vlm.datasets.Dataset.describe_answers`), by the run's name; None of a run
            without.
    """
    runs: dict[str, list[str]] = {}
    for name, about in found.items():
        text = vocabulary_in_words(about) if about else "each question's choices, or free text"
        runs.setdefault(text, []).append(name)
    if len(runs) == 1:
        return f"Answers: {next(iter(runs))}."
    hashes = {about and about["hash"] for about in found.values()}
    differ = (
        "the runs have different vocabularies"
        if len(hashes) > 1
        else "the runs have one vocabulary, and different validation parts"
    )
    each = "; ".join(f"{', '.join(names)}: {text}" for text, names in runs.items())
    return f"Answers: {differ}. {each}."
