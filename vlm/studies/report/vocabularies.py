"""Describe the answers that a report's runs could give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlm.datasets.vocabulary import vocabulary_in_words


def describe_vocabularies(found: Mapping[str, Mapping[str, Any] | None]) -> str:
    """A paragraph on the vocabulary of all runs, or on each vocabulary and its runs, from its
    description by run name (`vlm.datasets.Dataset.describe_answers`); None if there is none."""
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
