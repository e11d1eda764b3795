"""A tokenizer makes no more of a text than a text can need.

The `tokenizers` library does what a file says, and ends the process where memory runs out: twenty
bytes in a file can take gigabytes, or make as many of one question.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from vlm.core.safe_config import text

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MOST = 1000
"""Times that a text may grow on its way through all steps. NFKC alone makes 18 letters of one."""
MOST_ADDED = 100
"""Characters that a step may put before a text, and special tokens that may be added to it."""


def tokenizer(value: Any) -> None:
    """A check of an argument that holds a whole tokenizer: see `vlm.core.safe_config.Check`.

    Raises:
        ValueError: no text, no JSON, or steps that make too much of a text.
    """
    text(value)
    try:
        stored = json.loads(value)
        if not isinstance(stored, dict):
            raise ValueError("no object")
        steps = [*_steps([stored.get(k) for k in ("normalizer", "pre_tokenizer", "decoder")])]
        added = [*_steps(stored.get("post_processor"))]
    except (ValueError, RecursionError) as error:
        raise ValueError(f"got no tokenizer.json ({error!s:.200}).") from error
    growth = 1.0
    for step in steps:
        try:
            growth *= _growth(step)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"the step {step.get('type')!r:.40} is damaged ({error!r:.200})."
            ) from error
        if growth > MOST:
            raise ValueError(
                f"a text may become more than {MOST:,} times as long at the step "
                f"{step['type']!r:.40}; expected the tokenizer of a model."
            )
    if sum(map(_added, added)) > MOST_ADDED:
        raise ValueError(
            f"it adds more than {MOST_ADDED} special tokens to a text, or repeats it; expected the "
            f"tokenizer of a model."
        )


def read_tokenizer(content: str, source: str) -> Tokenizer:
    """The checked content of a `tokenizer.json`, for the `tokenizers` library."""
    from tokenizers import Tokenizer

    try:
        tokenizer(content)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    return Tokenizer.from_str(content)


def _steps(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if "type" in value:
            yield value
        for item in value.values():
            yield from _steps(item)
    elif isinstance(value, list):
        for item in value:
            yield from _steps(item)


def _growth(step: dict[str, Any]) -> float:
    """How many times as long a text can be after the step."""
    kind = step["type"]
    if kind == "Replace":
        replaced = step["pattern"].get("String")
        content = len(step["content"])
        return max(1.0, content / len(replaced)) if replaced else 1.0 + content
    if kind == "ByteLevel":
        return 2.0
    if kind == "Precompiled":
        table = b64decode(step["precompiled_charsmap"] or "")
        size = int.from_bytes(table[:4], "little")
        if size > len(table) - 4:
            raise ValueError(f"a table of {size:,} bytes in {len(table):,}")
        return max(1.0, max(map(len, table[4 + size :].split(b"\0"))) / 2)
    for name in ("prepend", "replacement", "prefix"):
        if len(step.get(name) or "") > MOST_ADDED:
            raise ValueError(f"{name} has more than {MOST_ADDED} characters")
    return 1.0


def _added(step: dict[str, Any]) -> int:
    """How many special tokens a step adds to a text."""
    if step["type"] != "TemplateProcessing":
        return 0
    single, special = step.get("single"), step.get("special_tokens")
    if not isinstance(single, list) or not isinstance(special, dict):
        return MOST_ADDED + 1
    texts = sum("Sequence" in piece for piece in single if isinstance(piece, dict))
    longest = max((len(token["ids"]) for token in special.values()), default=0)
    return len(single) * max(1, longest) if texts <= 1 else MOST_ADDED + 1
