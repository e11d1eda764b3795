"""What annotators said, in the forms that people write it, as one text per annotator."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

import regex

from vlm.core.clean_text import clean_text
from vlm.core.validation import shorten
from vlm.datasets.readers.literals import content_of

TEN = 10
MOST = 1000
"""Annotators of a question; a larger count is a mistake."""
CONFIDENCES = ("answer_confidence", "confidence")
WEIGHTS = ("count", *CONFIDENCES)
"""What an object may say beside its answer; the first that is there is used."""

_FULL_STOP = regex.compile(r"[\s\p{Sentence_Terminal}]+$")
_FAILED_FORMULAS = ("#N/A", "#NAME?", "#REF!", "#VALUE!", "#DIV/0!", "#NUM!")
NOTHING = ("", "nan", "NaN", "<NA>", "NaT", "\\N", *_FAILED_FORMULAS)
"""What data frames and spreadsheets write for a missing value, or a formula that failed."""
_WHOLE = re.compile(r"(-?\d+)\.0+")
"""A whole number as data frames write it in a column of decimals, or with missing values."""


def annotators_answers(value: Any) -> list[str] | None:
    """One text per annotator, or None where there is no answer.

    Args:
        value: a text or number; a list of these; an answer's count or share by its text; or a list
            of objects with `answer` and `count`, `answer_confidence` or `confidence`; an object
            without, or with null there, is one annotator. Counts are written out as repeated
            answers. Confidences in words (VQA v2's yes, maybe, no) stay unused, as in the official
            evaluator. Numbers that are no whole ones are the annotators' shares: they must sum to
            1, and ten annotators are written out.

    Raises:
        ValueError: anything else, with what was found and what was expected.
    """
    if isinstance(value, Mapping):
        if isinstance(value.get("answer"), list):  # columns, as Hugging Face stores lists of dicts
            keys = [key for key in value if isinstance(value[key], list)]
            rows = zip(*(value[key] for key in keys), strict=True)
            value = [dict(zip(keys, row, strict=True)) for row in rows]
        else:
            return _written_out(value.items())
    if isinstance(value, list):
        if value and all(isinstance(item, tuple) for item in value):  # a map of Arrow's
            return _written_out(value)
        if value and all(isinstance(item, Mapping) for item in value):
            return _from_objects(value)
        texts = [text for item in value if (text := plain_text(item)) is not None]
        if len(texts) < len(value):
            raise ValueError(f"got {shorten(value)}, with an empty answer; remove it")
        return texts or None
    text = plain_text(value)
    return None if text is None else [text]


def cell_content(cell: str) -> Any:
    """The content of a CSV file's cell: a literal (`content_of`), the parts of "a|b", or the
    text."""
    content = content_of(cell)
    if not isinstance(content, str):
        return content
    return cell.split("|") if "|" in cell else cell


def plain_text(value: Any) -> str | None:
    """A text without the space around it, or a number as text; None for nothing (`NOTHING` too).

    A whole number is the same text whatever its type: 3, 3.0, Decimal("3") and "3.00" are "3".

    Raises:
        ValueError: another type, or a text that is no valid Unicode.
    """
    if isinstance(value, str):
        text = clean_text(value).strip()
        whole = _WHOLE.fullmatch(text)
        return None if text in NOTHING else whole[1] if whole else text
    if value is None:
        return None
    if isinstance(value, bool):
        raise ValueError(f"got {value}; expected a text, such as 'yes' for true and 'no' for false")
    if isinstance(value, (int, float, Decimal)):
        if math.isnan(value):
            return None  # a missing value of a data frame
        if abs(value) == math.inf:
            raise ValueError(f"got {value}; expected a text or a finite number")
        if value == int(value):
            return str(int(value))
        return str(value.normalize() if isinstance(value, Decimal) else value)
    raise ValueError(f"got {shorten(value)}; expected a text")


def merged(answer: str) -> str:
    """The answer in lower case and without a final full stop, in any script.

    >>> merged("Yes."), merged("लाल।"), merged("...")
    ('yes', 'लाल', '...')
    """
    return _FULL_STOP.sub("", answer.lower()) or answer


def _from_objects(items: Iterable[Mapping[str, Any]]) -> list[str] | None:
    weighted: list[tuple[Any, Any]] = []
    for item in items:
        if "answer" not in item:
            raise ValueError(f"got {shorten(dict(item))}; expected objects with an answer")
        # Null is no more than absent: Parquet has every field in every object.
        name = next((name for name in WEIGHTS if item.get(name) is not None), None)
        weight = 1 if name is None else item[name]
        if name in CONFIDENCES:
            weight = _of_confidence(weight, item["answer"])
        if weight == 0 and weight is not False:
            raise ValueError(
                f"got {name} {weight} for {shorten(item['answer'])}; leave out an answer that "
                "nobody gave, or a confidence that should not count"
            )
        weighted.append((item["answer"], weight))
    return _written_out(weighted)


def _of_confidence(confidence: Any, answer: Any) -> Any:
    """A share; 1 for words, which say no number."""
    in_words = isinstance(confidence, str)
    if in_words and not re.search(r"\d", confidence):
        return 1
    if in_words or (isinstance(confidence, (int, float)) and confidence > 1):
        raise ValueError(
            f"got the confidence {shorten(confidence)} for {shorten(answer)}; annotators' "
            "confidence is not supported: leave it out, or write a number of annotators as count"
        )
    return confidence


def _written_out(weighted: Iterable[tuple[Any, Any]]) -> list[str] | None:
    """Each answer as often as it was given; of shares, ten answers."""
    answers: list[str] = []
    weights: list[float] = []
    for answer, weight in weighted:
        # Nobody gave it; null, because an Arrow struct has a field for every answer.
        if weight is None or (weight == 0 and weight is not False):
            continue
        text = plain_text(answer)
        if text is None:
            raise ValueError("an answer is empty; remove it")
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not weight > 0:
            raise ValueError(
                f"got {shorten(weight)} for {text!r}; expected a count, or a share, as a number"
            )
        answers.append(text)
        weights.append(weight)
    if any(weight != int(weight) for weight in weights if math.isfinite(weight)):
        counts = _of_ten(answers, weights)
    elif sum(weights) > MOST:
        raise ValueError(f"got counts that sum to {sum(weights):g}; expected at most {MOST:,}")
    else:
        counts = [int(weight) for weight in weights]
    return [a for a, n in zip(answers, counts, strict=True) for _ in range(n)] or None


def _of_ten(answers: list[str], shares: list[float]) -> list[int]:
    """How many of ten annotators gave each answer, by largest remainders."""
    if not abs(sum(shares) - 1) <= 0.01:
        raise ValueError(
            f"got numbers that sum to {sum(shares):g}; expected whole counts, or shares of the "
            f"annotators that sum to 1. Annotators' confidence is not supported: leave it out"
        )
    exact = [TEN * share / sum(shares) for share in shares]
    counts = [int(number) for number in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: counts[i] - exact[i])
    for i in by_remainder[: TEN - sum(counts)]:
        counts[i] += 1
    if 0 in counts:
        i = counts.index(0)
        raise ValueError(
            f"got the share {shares[i]:g} for {answers[i]!r}; shares are written out as ten "
            f"annotators, of whom this is less than one: leave it out, or write counts"
        )
    return counts
