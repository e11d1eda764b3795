"""How many cases run: a few fixed ones, or as many as `make fuzz` requests."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

CASES = os.environ.get("VLM_FUZZ_CASES")

fuzz = settings(
    max_examples=int(CASES or 100),
    derandomize=CASES is None,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)

any_text = st.one_of(
    st.text(),
    st.text(st.characters(exclude_categories=())),  # also halves of surrogate pairs
    st.text("whatiscolr ?'\u2019-_.\0\t\n\ud800\u200d\ufeff🙂这é\u0301", max_size=60),
)
"""Any text that Python can hold."""

plain = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), any_text, st.just(10**400))
json_values = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=6,
)


def tried(call: Callable[[], Any], kind: type[Exception]) -> tuple[Any, str | None]:
    """Return a call's result, or the message of the one kind of error it may raise."""
    try:
        return call(), None
    except kind as error:
        return None, str(error)


@st.composite
def mutated(draw: st.DrawFn, content: bytes) -> bytes:
    """Set, delete, insert or repeat a few bytes of the content, or truncate it."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, min(len(changed), 80) if draw(st.booleans()) else len(changed)))
        kind = draw(st.sampled_from(("set", "number", "cut", "put", "repeat", "end")))
        length = draw(st.integers(0, 40))
        if kind == "set":
            changed[start : start + 1] = draw(st.binary(min_size=1, max_size=1))
        elif kind == "number":
            size = draw(st.sampled_from((1, 2, 4)))
            number = draw(
                st.sampled_from((0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31, 2**32 - 1))
            )
            order = draw(st.sampled_from(("little", "big")))
            changed[start : start + size] = (number % 256**size).to_bytes(size, order)
        elif kind == "cut":
            del changed[start : start + length]
        elif kind == "put":
            changed[start:start] = draw(st.binary(max_size=40))
        elif kind == "repeat":
            changed[start:start] = changed[start : start + length] * draw(st.integers(1, 3))
        else:
            del changed[start:]
    return bytes(changed)
